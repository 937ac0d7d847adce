//! What the gate says to the backend again and again, rendered once: its own name for a run, and the fields about a client
//! and a caller for a connection.

use std::net::IpAddr;

use http::Version;

use crate::policy::keys::KeyIx;

/// This run's name in `Via` (RFC 9110 §7.6.3).
#[derive(Debug)]
pub(super) struct Pseudonym {
    /// As it stands behind every protocol version.
    pub(super) name: String,
}

impl Pseudonym {
    /// The pseudonym with this run's id in it, so that the gate knows itself from other gates in a chain.
    pub(super) fn new(boot: &dyn std::fmt::Display) -> Pseudonym {
        Pseudonym { name: format!("tollgate-{boot}") }
    }

    /// The field for a request that was received in this version.
    pub(super) fn via(&self, received: Version) -> String {
        let version = match received {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        format!("{version} {}", self.name)
    }
}

/// By which way a request came, as far as the backend is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The client.
    pub(super) client: IpAddr,
    /// `http` or `https`.
    pub(super) proto: &'static str,
    /// The version in which it was received.
    pub(super) version: Version,
}

/// Field lines about a connection's latest client and caller, under one policy: nearly always all requests of a connection
/// are of one. 900 instructions a request where they are, and 300 more where the policy names the caller to the backend.
#[derive(Debug, Default)]
pub(super) struct Said {
    way: Option<Way>,
    of_way: Lines,
    caller: Option<KeyIx>,
    of_caller: Lines,
}

impl Said {
    /// Another policy has other words.
    pub(super) fn forget(&mut self) {
        (self.way, self.caller) = (None, None);
    }

    /// What is said of this way; `write` says it if it is not the latest one's.
    pub(super) fn of_way(&mut self, way: Way, write: impl FnOnce(&mut Lines)) -> &Lines {
        if self.way != Some(way) {
            self.way = Some(way);
            self.of_way.0.clear();
            write(&mut self.of_way);
        }
        &self.of_way
    }

    /// What is said of this caller; `write` says it if it is not the latest one's.
    pub(super) fn of_caller(&mut self, caller: KeyIx, write: impl FnOnce(&mut Lines)) -> &Lines {
        if self.caller != Some(caller) {
            self.caller = Some(caller);
            self.of_caller.0.clear();
            write(&mut self.of_caller);
        }
        &self.of_caller
    }
}

/// Field lines as HTTP/1 has them (RFC 9112 §5), one behind the other.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Adds a line.
    pub(super) fn add(&mut self, name: &str, value: &[u8]) {
        for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.0.extend_from_slice(piece);
        }
    }

    /// The text of all lines.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // Neither has a line end in it, and no name a colon.
        self.0.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line.get(colon + 2..)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_one_text_and_come_apart_again() {
        let mut lines = Lines::default();
        lines.add("a", b"b: c");
        lines.add("d", b"");
        assert_eq!(lines.as_bytes(), b"a: b: c\r\nd: \r\n");
        let apart: Vec<_> = lines.iter().collect();
        assert_eq!(apart, [(&b"a"[..], &b"b: c"[..]), (b"d", b"")]);
    }

    #[test]
    fn what_is_said_is_written_again_for_another_client_caller_or_policy() {
        let mut said = Said::default();
        let way = |last| Way {
            client: [10, 0, 0, last].into(),
            proto: "http",
            version: Version::HTTP_11,
        };
        let text = |said: &mut Said, last, word: &str| {
            let lines = said.of_way(way(last), |lines| lines.add(word, b""));
            String::from_utf8(lines.as_bytes().to_vec()).unwrap()
        };
        assert_eq!(text(&mut said, 1, "a"), "a: \r\n");
        assert_eq!(text(&mut said, 1, "b"), "a: \r\n");
        assert_eq!(text(&mut said, 2, "b"), "b: \r\n");
        assert_eq!(said.of_caller(KeyIx(1), |lines| lines.add("c", b"")).as_bytes(), b"c: \r\n");
        assert_eq!(said.of_caller(KeyIx(2), |lines| lines.add("d", b"")).as_bytes(), b"d: \r\n");
        said.forget();
        assert_eq!(text(&mut said, 2, "e"), "e: \r\n");
        assert_eq!(said.of_caller(KeyIx(2), |lines| lines.add("f", b"")).as_bytes(), b"f: \r\n");
    }
}
