// SPDX-License-Identifier: Apache-2.0
use kvappend_sys as sys;
use std::ffi::CStr;
use std::fmt;

/// The result of a call to the library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed: one of the `KVAPPEND_ERROR_*` in [`sys`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub sys::kvappend_status);

impl Status {
    /// The constant's name, such as `"KVAPPEND_ERROR_ALIAS"`.
    pub fn name(self) -> &'static str {
        // SAFETY: any number is allowed, and the result is a static string.
        let name = unsafe { CStr::from_ptr(sys::kvappend_status_name(self.0)) };
        name.to_str().unwrap_or("not UTF-8")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A status, and a sentence that names the argument, its value and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    message: String,
}

impl Error {
    pub(crate) fn new(status: sys::kvappend_status, message: impl Into<String>) -> Self {
        Self {
            status: Status(status),
            message: message.into(),
        }
    }

    /// The same error for one of several layers, worded as the library does.
    pub(crate) fn of_layer(self, layer: usize) -> Self {
        Self {
            message: format!("layer {layer}: {}", self.message),
            ..self
        }
    }

    /// Which error it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// One sentence that names the argument, its value and what was expected.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.status.name(), self.message)
    }
}

impl std::error::Error for Error {}

/// The result of the call that has just returned `status` to this thread.
pub(crate) fn check(status: sys::kvappend_status) -> Result<()> {
    if status == sys::KVAPPEND_SUCCESS {
        return Ok(());
    }
    // SAFETY: the text belongs to this thread, and is copied before the thread's next call.
    let message = unsafe { CStr::from_ptr(sys::kvappend_last_error_message()) };
    Err(Error::new(status, message.to_string_lossy()))
}
