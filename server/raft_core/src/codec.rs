//! Protobuf in and out: bytes of Python to messages of the crate and back.
//!
//! Payloads are copied once on the way in; entries then share that buffer by reference count. The parser of protobuf
//! 2.28 calls itself for each level of a nested group, so a small message of nested groups would exhaust the stack and
//! kill the process (RUSTSEC-2024-0437). The messages of Raft have no groups: `decode` refuses them before it parses.

use bytes::Bytes;
use protobuf::{CodedOutputStream, Message};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use raft::eraftpb;

/// The fields of a message type that the parser enters, each with the shape of what it finds there.
pub struct Shape(&'static [(u32, &'static Shape)]);

const FLAT: Shape = Shape(&[]);
const METADATA: Shape = Shape(&[(1, &FLAT)]);
const SNAPSHOT: Shape = Shape(&[(2, &METADATA)]);
const MESSAGE: Shape = Shape(&[(7, &FLAT), (9, &SNAPSHOT)]);
const CHANGES: Shape = Shape(&[(2, &FLAT)]);

/// A message type that comes from outside.
pub trait Known: Message {
    /// What the parser enters.
    const SHAPE: &'static Shape;
    /// How the type is called in errors.
    const NAME: &'static str;
}

macro_rules! known {
    ($type:ty, $shape:expr, $name:literal) => {
        impl Known for $type {
            const SHAPE: &'static Shape = &$shape;
            const NAME: &'static str = $name;
        }
    };
}

known!(eraftpb::Message, MESSAGE, "raft message");
known!(eraftpb::Entry, FLAT, "log entry");
known!(eraftpb::ConfState, FLAT, "conf state");
known!(eraftpb::ConfChange, FLAT, "change of members");
known!(eraftpb::ConfChangeV2, CHANGES, "change of members");

/// Reads a message, or raises ValueError.
pub fn decode<M: Known>(bytes: &[u8]) -> PyResult<M> {
    refuse_groups(bytes, M::SHAPE)
        .ok_or_else(|| PyValueError::new_err(format!("not a {}: malformed protobuf", M::NAME)))?;
    M::parse_from_carllerche_bytes(&Bytes::copy_from_slice(bytes))
        .map_err(|error| PyValueError::new_err(format!("not a {}: {error}", M::NAME)))
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

/// Walks the fields as the parser will; None when it meets a group or what is no field.
fn refuse_groups(mut rest: &[u8], shape: &Shape) -> Option<()> {
    while !rest.is_empty() {
        let tag = u32::try_from(take_varint(&mut rest)?).ok()?;
        match tag & 7 {
            0 => drop(take_varint(&mut rest)?),
            1 => drop(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                let inner = take(&mut rest, length)?;
                if let Some((_, nested)) = shape.0.iter().find(|(field, _)| *field == tag >> 3) {
                    refuse_groups(inner, nested)?;
                }
            }
            5 => drop(take(&mut rest, 4)?),
            _ => return None,
        }
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for position in 0..10 {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
