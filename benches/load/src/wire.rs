//! As much of HTTP/1.1 as both sides here need: where a head ends, and what it says of its body.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read or written at once.
pub const PIECE: usize = 64 * 1024;

static FILLER: [u8; PIECE] = [b'x'; PIECE];

/// The example pair of RFC 6455, section 1.3: with one fixed key its digest is fixed too.
pub const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What answers [`WEBSOCKET_KEY`].
pub const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Length of the head at the start of `bytes`, with its empty line, once it is there.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a field in a head; `name` in lower case.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (before, after) = line.split_at_checked(name.len())?;
        let value = after.strip_prefix(b":")?;
        before
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| std::str::from_utf8(value).ok().map(str::trim))?
    })
}

/// The body's length in bytes that a head tells; 0 where it tells none.
pub fn content_length(head: &[u8]) -> usize {
    field(head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The three digits of an answer's first line; 0 where there are none.
pub fn status(head: &[u8]) -> u16 {
    head.get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// Reads until a whole head stands at the start of `buffer`; its length, or none where the other side ended before.
pub async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Option<usize>> {
    loop {
        if let Some(length) = head_length(buffer) {
            return Ok(Some(length));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Reads and forgets `left` bytes, those in `buffer` first.
pub async fn discard(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    mut left: usize,
) -> io::Result<()> {
    loop {
        let here = left.min(buffer.len());
        buffer.advance(here);
        left -= here;
        if left == 0 {
            return Ok(());
        }
        buffer.reserve(PIECE);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Writes `left` bytes of nothing in particular.
pub async fn fill(stream: &mut (impl AsyncWrite + Unpin), mut left: usize) -> io::Result<()> {
    while left > 0 {
        let piece = left.min(PIECE);
        stream.write_all(&FILLER[..piece]).await?;
        left -= piece;
    }
    Ok(())
}

/// One WebSocket frame with what is before its payload, if all of it stands at the start of `bytes`: the head's length and the
/// payload's (RFC 6455, section 5.2). Longer payloads than 64 KiB are not spoken here.
pub fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let second = *bytes.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (head, payload) = match usize::from(second & 0x7f) {
        126 => (4 + mask, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        short => (2 + mask, short),
    };
    (bytes.len() >= head + payload).then_some((head, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nX-Length: 3\r\n\r\nbody";

    #[test]
    fn a_head_ends_with_its_empty_line() {
        assert_eq!(head_length(HEAD), Some(HEAD.len() - 4));
        assert_eq!(head_length(&HEAD[..HEAD.len() - 5]), None);
    }

    #[test]
    fn fields_are_found_by_name_in_any_case() {
        assert_eq!(field(HEAD, "x-length"), Some("3"));
        assert_eq!(field(HEAD, "length"), None);
        assert_eq!(content_length(HEAD), 12);
        assert_eq!(status(HEAD), 404);
    }

    #[test]
    fn a_frame_is_one_when_all_of_it_is_there() {
        assert_eq!(frame(&[0x82, 0x02, b'h', b'i']), Some((2, 2)));
        assert_eq!(frame(&[0x82, 0x82, 1, 2, 3, 4, b'h', b'i']), Some((6, 2)));
        assert_eq!(frame(&[0x82, 0x02, b'h']), None);
        let mut long = vec![0x82, 126, 1, 0];
        long.extend([0; 256]);
        assert_eq!(frame(&long), Some((4, 256)));
        assert_eq!(frame(&long[..259]), None);
    }
}
