//! The id by which one request is known to its client, to its backend and in its record.

use bytes::Bytes;

use super::field_text::Legal;
use crate::policy::fields::printable;
use crate::telemetry::decision_id;
use crate::telemetry::record::ShownId;

/// The id of one request. One that the gate made stands in its place: as a field's value of its own it would be
/// allocated, checked and freed with every request, for 400 instructions.
#[derive(Clone, Debug)]
pub(super) enum RequestId {
    /// None yet.
    Nameless,
    /// Made here.
    Made(decision_id::RequestId),
    /// A trusted hop's: a field's value as its parser let it through.
    Given(Bytes),
}

impl RequestId {
    /// The id that a trusted hop has given.
    pub(super) fn given(id: &[u8]) -> RequestId {
        RequestId::Given(Bytes::copy_from_slice(id))
    }

    /// The id as it is forwarded and returned.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            RequestId::Nameless => b"-",
            RequestId::Made(id) => id.as_bytes(),
            RequestId::Given(id) => id,
        }
    }

    /// The id as far as it is printable: nothing of one that is not.
    pub(super) fn printable(&self) -> &[u8] {
        match self {
            RequestId::Nameless | RequestId::Made(_) => self.as_bytes(),
            RequestId::Given(id) => printable(id).map_or(b"", str::as_bytes),
        }
    }

    /// The id as records have it: nothing of one that is not ASCII.
    pub(super) fn recorded(&self) -> ShownId<'_> {
        match self {
            RequestId::Made(id) => ShownId::Made(id),
            RequestId::Nameless => ShownId::Given(self.as_bytes()),
            RequestId::Given(id) => ShownId::Given(if id.is_ascii() { id } else { b"" }),
        }
    }

    /// The same in words.
    pub(super) fn as_str(&self) -> &str {
        printable(self.as_bytes()).unwrap_or("")
    }
}

impl<'a> From<&'a RequestId> for Legal<'a> {
    fn from(id: &'a RequestId) -> Legal<'a> {
        Legal::known(id.as_bytes())
    }
}
