//! Protobuf in and out: Python bytes to messages of the crate and back.
//!
//! Payloads are copied once on the way in; entries then share that buffer by reference counting.

use bytes::Bytes;
use protobuf::{CodedOutputStream, Message};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Parses a message; raises ValueError naming the expected kind if it cannot.
pub fn decode<M: Message>(bytes: &[u8], name: &str) -> PyResult<M> {
    M::parse_from_carllerche_bytes(&Bytes::copy_from_slice(bytes))
        .map_err(|error| PyValueError::new_err(format!("not a {name}: {error}")))
}

/// Writes a message straight into a Python bytes object.
pub fn encode<'py, M: Message>(py: Python<'py>, message: &M) -> PyResult<Bound<'py, PyBytes>> {
    let size = message.compute_size() as usize;
    PyBytes::new_with(py, size, |buffer| {
        let mut out = CodedOutputStream::bytes(buffer);
        message
            .write_to_with_cached_sizes(&mut out)
            .and_then(|()| out.flush())
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))
    })
}
