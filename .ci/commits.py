#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks commit messages by the rule of CONTRIBUTING.md: those of a range of commits, or the one in a file.

    commits.py [RANGE]          by default the commits since the one that added this file
    commits.py --message FILE   as a commit-msg hook, before there is a commit
"""

import re
import subprocess
import sys

LENGTH = 72
AREA = re.compile(r"[a-z][\w./+-]*|[A-Z]+(\.md)?")
# Verbs and other words whose endings are those of no imperative, though they are imperatives.
IMPERATIVES = {"alias", "bias", "bring", "embed", "exceed", "feed", "focus", "need", "ping", "proceed", "ring", "seed",
               "shed", "speed", "string", "succeed"}


def faults(message):
    """What the rule refuses in a message, a sentence each."""
    subject, *rest = message.rstrip("\n").split("\n")
    if subject.startswith(('Revert "', 'Reapply "')):
        return [] if any(rest) else ["it has no body that says why"]
    found = []
    if len(subject) > LENGTH:
        found.append(f"the subject has {len(subject)} characters, which is more than {LENGTH}")
    areas, colon, summary = subject.partition(": ")
    if not colon or not all(AREA.fullmatch(area) for area in areas.split(", ")):
        found.append("the subject does not begin with an area and a colon, such as `host: `")
        colon, summary = "", subject
    word = re.match(r"\w*", summary).group()
    if colon and word.istitle():
        found.append(f"the subject continues with a capital letter: {word}")
    elif colon and word not in IMPERATIVES and (not word.islower() or re.search("[^s]s$|ed$|ing$", word)):
        found.append(f"the subject does not begin with an imperative, such as `add`: {word}")
    if subject.endswith("."):
        found.append("the subject ends with a full stop")
    if not any(line.strip() for line in rest):
        found.append("it has no body that says why")
    elif rest[0]:
        found.append("line 2 is not blank")
    return found


def git(*arguments):
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def since_rule():
    """The commits since the rule. Commits of a branch that is older than the rule are left out by their date."""
    added = git("log", "--diff-filter=A", "--format=%H %at", "--", ".ci/commits.py").split()
    if not added:
        return []
    rule, date = added[-2:]
    commits = [line.split() for line in git("log", "--no-merges", "--format=%H %at", f"{rule}..HEAD").splitlines()]
    return [commit for commit, written in commits if int(written) >= int(date)]


def main():
    if sys.argv[1:2] == ["--message"]:
        with open(sys.argv[2], encoding="utf-8") as file:
            text = file.read().partition("\n# ------------------------ >8 ---")[0]
        message = "\n".join(line for line in text.split("\n") if not line.startswith("#")).strip("\n")
        # `git rebase --autosquash` will put the first ones into other commits. Ranges leave merges out, too.
        messages = {} if re.match("(fixup|squash|amend)! |Merge ", message) else {"message": message}
    else:
        commits = git("log", "--no-merges", "--format=%H", sys.argv[1]).split() if sys.argv[1:] else since_rule()
        messages = {commit[:10]: git("show", "-s", "--format=%B", commit) for commit in commits}
    wrong = 0
    for name, message in messages.items():
        for fault in faults(message):
            print(f"{name}: {fault}\n    {message.splitlines()[0] if message else ''}", file=sys.stderr)
            wrong += 1
    print(f"{len(messages)} messages, {wrong} faults")
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
