//! The chunked coding taken off an answer (RFC 9112 §7.1), byte by byte and without waiting: any split of the same bytes
//! gives the same body. Data is handed on without a copy.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head_in::is_of_the_hop;

/// The most bytes of chunk extensions in one body. They mean nothing to us, and may not be used to keep us busy.
const MOST_EXTENSIONS: usize = 16 * 1024;
/// The most bytes of a trailer section.
const MOST_TRAILERS: usize = 16 * 1024;
/// The most fields of a trailer section.
const MOST_TRAILER_FIELDS: usize = 100;

/// What a look at the bytes at hand gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// The trailer section; it follows the last data and precedes the end.
    Trailers(HeaderMap),
    /// The body is over. What is left in the buffer is not of it.
    End,
    /// Nothing without more bytes.
    Hungry,
}

/// These bytes are not chunked, or go over a bound. Says why, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChunk(pub(super) &'static str);

/// Where in a chunked body its reader stands.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    /// The size that is being read, then what is left of the chunk.
    left: u64,
    extensions: usize,
    trailers: Vec<u8>,
    /// A mistake that was found: nothing behind it means anything.
    bad: Option<BadChunk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first digit of a size: there must be one.
    Size,
    /// More digits.
    Digits,
    /// Blanks behind a size: some servers pad with them. No digit may follow.
    Padding,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The start of a trailer line, or of the line that ends the body.
    Line,
    InLine,
    LineLf,
    LastLf,
    End,
}

impl Chunks {
    /// At the start of a body.
    pub(super) fn new() -> Chunks {
        Chunks { state: State::Size, left: 0, extensions: 0, trailers: Vec::new(), bad: None }
    }

    /// Takes the next piece off `unread`.
    pub(super) fn next(&mut self, unread: &mut BytesMut) -> Result<Piece, BadChunk> {
        self.take_framing(unread)?;
        match self.state {
            State::Data if !unread.is_empty() => Ok(Piece::Data(self.data(unread))),
            State::End if !self.trailers.is_empty() => self.trailers().map(Piece::Trailers),
            State::End => Ok(Piece::End),
            _ => Ok(Piece::Hungry),
        }
    }

    /// Whether nothing more will come, as far as the bytes at hand tell. What frames the body is taken off them.
    pub(super) fn is_over(&mut self, unread: &mut BytesMut) -> bool {
        // A mistake is told when the next piece is asked for.
        self.take_framing(unread).is_ok() && self.state == State::End && self.trailers.is_empty()
    }

    /// Whether the next piece is here, when what frames it was taken off.
    pub(super) fn is_at_hand(&self, unread: &BytesMut) -> bool {
        match self.state {
            State::Data => !unread.is_empty(),
            State::End => !self.trailers.is_empty(),
            _ => false,
        }
    }

    fn take_framing(&mut self, unread: &mut BytesMut) -> Result<(), BadChunk> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        let mut read = 0;
        while !matches!(self.state, State::Data | State::End)
            && let Some(byte) = unread.get(read)
        {
            read += 1;
            self.step(*byte).inspect_err(|bad| self.bad = Some(*bad))?;
        }
        unread.advance(read);
        Ok(())
    }

    fn data(&mut self, unread: &mut BytesMut) -> Bytes {
        let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(unread.len());
        self.left -= here as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        unread.split_to(here).freeze()
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.state = match (self.state, byte) {
            (State::Size | State::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(byte)?;
                State::Digits
            }
            (State::Digits | State::Padding, b' ' | b'\t') => State::Padding,
            (State::Digits | State::Padding, b';') => State::Extension,
            (State::Digits | State::Padding | State::Extension, b'\r') => State::SizeLf,
            (State::Size | State::Digits | State::Padding, _) => {
                return Err(BadChunk("a chunk size that is none"));
            }
            // Some would read a new line here.
            (State::Extension | State::Line | State::InLine, b'\n') => {
                return Err(BadChunk("a bare line feed"));
            }
            (State::Extension, _) => {
                self.extensions += 1;
                if self.extensions > MOST_EXTENSIONS {
                    return Err(BadChunk("too many chunk extensions"));
                }
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left == 0 => State::Line,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::Line, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::End,
            (State::Line | State::InLine, _) => {
                self.trailer(byte)?;
                if byte == b'\r' { State::LineLf } else { State::InLine }
            }
            (State::LineLf, b'\n') => {
                self.trailer(byte)?;
                State::Line
            }
            (State::SizeLf | State::LineLf | State::LastLf, _) => {
                return Err(BadChunk("a carriage return without its line feed"));
            }
            (State::DataCr | State::DataLf, _) => {
                return Err(BadChunk("a chunk that is longer than its size"));
            }
            (State::Data | State::End, _) => self.state,
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<(), BadChunk> {
        let digit = char::from(byte).to_digit(16).unwrap_or(0);
        self.left = self
            .left
            .checked_mul(16)
            .and_then(|size| size.checked_add(u64::from(digit)))
            .ok_or(BadChunk("a chunk size over all bounds"))?;
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), BadChunk> {
        if self.trailers.len() >= MOST_TRAILERS {
            return Err(BadChunk("too large a trailer section"));
        }
        self.trailers.push(byte);
        Ok(())
    }

    /// The fields of the trailer section, without those that would speak of the upstream's connection.
    fn trailers(&mut self) -> Result<HeaderMap, BadChunk> {
        const NONE: BadChunk = BadChunk("a trailer section that is none");
        let mut text = std::mem::take(&mut self.trailers);
        text.extend_from_slice(b"\r\n");
        let mut places = [httparse::EMPTY_HEADER; MOST_TRAILER_FIELDS];
        let Ok(httparse::Status::Complete((_, fields))) =
            httparse::parse_headers(&text, &mut places)
        else {
            return Err(NONE);
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NONE)?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| NONE)?;
            if !is_of_the_hop(&name) {
                trailers.append(name, value);
            }
        }
        Ok(trailers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes of some bytes: the data, the trailers, and what was left behind the end.
    type Outcome = Result<(Vec<u8>, Option<HeaderMap>, Option<Vec<u8>>), BadChunk>;

    fn read(pieces: impl IntoIterator<Item = Vec<u8>>) -> Outcome {
        let (mut chunks, mut unread) = (Chunks::new(), BytesMut::new());
        let (mut data, mut trailers, mut over) = (Vec::new(), None, false);
        for piece in pieces {
            unread.extend_from_slice(&piece);
            loop {
                match chunks.next(&mut unread)? {
                    Piece::Data(more) => data.extend_from_slice(&more),
                    Piece::Trailers(map) => trailers = Some(map),
                    Piece::Hungry => break,
                    Piece::End => {
                        over = true;
                        break;
                    }
                }
            }
        }
        Ok((data, trailers, over.then(|| unread.to_vec())))
    }

    fn whole(bytes: &[u8]) -> Outcome {
        read([bytes.to_vec()])
    }

    #[test]
    fn data_extensions_and_trailers_are_told_apart() {
        let (data, trailers, rest) = whole(
            b"5;a=b;c=\"d\"\r\nhello\r\n01 \r\n \r\n00A\r\n0123456789\r\n0\r\nX-Sum: 7\r\nConnection: x\r\nx-sum: 8\r\n\r\nHTTP",
        )
        .unwrap();
        assert_eq!(data, b"hello 0123456789");
        let trailers = trailers.unwrap();
        let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
        assert!(sums == ["7", "8"] && trailers.len() == 2, "{trailers:?}");
        assert_eq!(rest.unwrap(), b"HTTP");
        assert_eq!(whole(b"0\r\n\r\n").unwrap(), (vec![], None, Some(vec![])));
    }

    #[test]
    fn what_two_readers_could_read_two_ways_is_refused() {
        for bad in [
            "\r\n",
            " 5\r\nhello\r\n",
            "x\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "5 5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\rX",
            "5\rX",
            "5;a\nb\r\nhello\r\n",
            "10000000000000000\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\n X: folded\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n\rX",
            "0\r\n\n",
        ] {
            assert!(whole(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_over_the_whole_body() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        assert!(whole(chunk.repeat(16).as_bytes()).is_ok());
        assert!(whole(chunk.repeat(17).as_bytes()).is_err());
        let trailers = |lines: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(lines));
        assert!(whole(trailers(100).as_bytes()).is_ok());
        assert!(whole(trailers(101).as_bytes()).is_err());
        assert!(whole(format!("0\r\nX: {}", "y".repeat(17_000)).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_body_of_the_whole(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            trailer in proptest::option::of("[a-z]{1,8}"),
            cuts in proptest::collection::vec(1_usize..30, 0..40),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:X};x\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n");
            if let Some(value) = &trailer {
                bytes.extend_from_slice(format!("X-T: {value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\nbehind");
            let mut rest = &bytes[..];
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            pieces.push(rest.to_vec());
            let (data, trailers, behind) = read(pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers.map(|map| map["x-t"].to_str().unwrap().to_owned()), trailer);
            prop_assert_eq!(behind.unwrap(), b"behind");
        }

        #[test]
        fn garbage_gives_the_same_verdict_in_one_piece_and_byte_by_byte(
            bytes in "[0-9a-fA-F;\r\n :x]{0,60}",
        ) {
            let one_by_one = bytes.bytes().map(|byte| vec![byte]);
            prop_assert_eq!(read(one_by_one).is_ok(), whole(bytes.as_bytes()).is_ok());
        }
    }
}
