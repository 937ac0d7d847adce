//! The PROXY protocol, versions 1 and 2, in front of a connection: a pure parser and a reader with a deadline.
//!
//! Configured per listener, never detected; nothing of the payload is looked at before a whole, valid header. Anything
//! off the grammar drops the connection. Never decides whose header is believed: the caller asks the policy first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::io::Socket;

/// How long a header may take to arrive, at least 3 s by the protocol's text.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(3);

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its CRLF included.
const V1_LONGEST: usize = 107;
/// The longest version 2 header taken, of the 64 KiB that are possible: room for every TLV in use, and no more.
const V2_LONGEST: usize = 4096;
const V2_FIXED: usize = 16;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The client behind the proxy.
    Client(SocketAddr),
    /// The proxy speaks for itself (`LOCAL`, `UNKNOWN`, a Unix socket): the connection's own peer counts.
    Own,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header of that many bytes; what follows is payload.
    Whole(Announced, usize),
    /// The beginning of a header.
    More,
}

/// Why bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeader(pub &'static str);

/// Reads the header at the start of `bytes`, of either version.
pub fn parse(bytes: &[u8]) -> Result<Parsed, NoHeader> {
    match bytes.first() {
        None => Ok(Parsed::More),
        Some(b'P') => version_1(bytes),
        Some(_) => version_2(bytes),
    }
}

fn version_1(bytes: &[u8]) -> Result<Parsed, NoHeader> {
    let head = &bytes[..bytes.len().min(V1_LONGEST)];
    let known = head.len().min(6);
    if head[..known] != b"PROXY "[..known] {
        return Err(NoHeader("it does not begin with PROXY"));
    }
    let Some(end) = head.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if bytes.len() >= V1_LONGEST {
            Err(NoHeader("the line is longer than 107 bytes"))
        } else {
            Ok(Parsed::More)
        };
    };
    match (head[end], head.get(end + 1)) {
        (b'\r', None) if bytes.len() < V1_LONGEST => return Ok(Parsed::More),
        (b'\r', Some(b'\n')) => {}
        _ => return Err(NoHeader("the line does not end with CR LF")),
    }
    let line = std::str::from_utf8(&head[6..end]).map_err(|_| NoHeader("the line is not ASCII"))?;
    Ok(Parsed::Whole(announced_1(line)?, end + 2))
}

fn announced_1(line: &str) -> Result<Announced, NoHeader> {
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Announced::Own);
    }
    let mut fields = line.split(' ');
    let mut field = || fields.next().ok_or(NoHeader("a field is missing"));
    let (family, source, target) = (field()?, field()?, field()?);
    let (source_port, target_port) = (port(field()?)?, port(field()?)?);
    if fields.next().is_some() {
        return Err(NoHeader("there is a field too many"));
    }
    let _ = target_port;
    let source = match family {
        "TCP4" => {
            v4(target)?;
            IpAddr::V4(v4(source)?)
        }
        "TCP6" => {
            v6(target)?;
            IpAddr::V6(v6(source)?)
        }
        _ => return Err(NoHeader("the family is none of TCP4, TCP6, UNKNOWN")),
    };
    Ok(Announced::Client(SocketAddr::new(source, source_port)))
}

/// The standard parser refuses leading zeros, signs and short forms, as the protocol's text does.
fn v4(text: &str) -> Result<Ipv4Addr, NoHeader> {
    text.parse().map_err(|_| NoHeader("an IPv4 address is malformed"))
}

fn v6(text: &str) -> Result<Ipv6Addr, NoHeader> {
    text.parse().map_err(|_| NoHeader("an IPv6 address is malformed"))
}

fn port(text: &str) -> Result<u16, NoHeader> {
    let malformed = NoHeader("a port is malformed");
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(malformed);
    }
    text.parse().map_err(|_| malformed)
}

fn version_2(bytes: &[u8]) -> Result<Parsed, NoHeader> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(NoHeader("it begins with neither version's signature"));
    }
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else { return Ok(Parsed::More) };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if !matches!(command, 0x20 | 0x21) {
        return Err(NoHeader("version and command are neither 2 LOCAL nor 2 PROXY"));
    }
    // Family in the upper half, transport in the lower; what has no meaning there is refused.
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(NoHeader("the address family or transport is undefined")),
    };
    if V2_FIXED + length > V2_LONGEST {
        return Err(NoHeader("the header is longer than 4 KiB"));
    }
    if command == 0x21 && length < addresses {
        return Err(NoHeader("the header is shorter than its addresses"));
    }
    let whole = V2_FIXED + length;
    let Some(header) = bytes.get(..whole) else { return Ok(Parsed::More) };
    if command == 0x20 {
        return Ok(Parsed::Whole(Announced::Own, whole));
    }
    let body = &header[V2_FIXED..];
    check_tlvs(header, V2_FIXED + addresses)?;
    Ok(Parsed::Whole(announced_2(family, body), whole))
}

/// The source address. Of datagram transports too: they name the client just as well.
fn announced_2(family: u8, body: &[u8]) -> Announced {
    let port_at = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match family >> 4 {
        1 => {
            let source = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            Announced::Client(SocketAddr::new(source.into(), port_at(8)))
        }
        2 => {
            let mut source = [0; 16];
            source.copy_from_slice(&body[..16]);
            Announced::Client(SocketAddr::new(Ipv6Addr::from(source).into(), port_at(32)))
        }
        _ => Announced::Own,
    }
}

const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;

fn check_tlvs(header: &[u8], from: usize) -> Result<(), NoHeader> {
    let mut at = from;
    while at < header.len() {
        let (kind, value_at, next) = tlv(header, at)?;
        let value = &header[value_at..next];
        match kind {
            TLV_CRC32C => check_crc(header, value_at, value)?,
            TLV_UNIQUE_ID if value.len() > 128 => {
                return Err(NoHeader("a unique id is longer than 128 bytes"));
            }
            TLV_SSL => {
                // One byte of client flags, four of the verification's result, then TLVs of its own.
                let mut inner = 5;
                if value.len() < inner {
                    return Err(NoHeader("a TLV overruns its container"));
                }
                while inner < value.len() {
                    inner = tlv(value, inner)?.2;
                }
            }
            _ => {}
        }
        at = next;
    }
    Ok(())
}

/// Type, start of the value and end of the TLV at `at`.
fn tlv(bytes: &[u8], at: usize) -> Result<(u8, usize, usize), NoHeader> {
    match bytes.get(at..at + 3) {
        Some(&[kind, high, low]) => {
            let next = at + 3 + usize::from(u16::from_be_bytes([high, low]));
            if next <= bytes.len() {
                return Ok((kind, at + 3, next));
            }
            Err(NoHeader("a TLV overruns its container"))
        }
        _ => Err(NoHeader("a TLV overruns its container")),
    }
}

/// CRC32C of the whole header, with the checksum's own four bytes as zeros.
fn check_crc(header: &[u8], value_at: usize, value: &[u8]) -> Result<(), NoHeader> {
    let Ok(stated) = <[u8; 4]>::try_from(value) else {
        return Err(NoHeader("the checksum is not four bytes long"));
    };
    let own = value_at..value_at + 4;
    let zeroed =
        header.iter().enumerate().map(|(at, byte)| if own.contains(&at) { 0 } else { *byte });
    if crc32c(zeroed) == u32::from_be_bytes(stated) {
        Ok(())
    } else {
        Err(NoHeader("the checksum is wrong"))
    }
}

/// Castagnoli's CRC, bit by bit: a header is short and comes once a connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// Reads a header off the connection within `deadline`; what was read behind it is put back.
pub(crate) async fn read(socket: &mut Socket, deadline: Duration) -> Result<Announced, NoHeader> {
    timeout(deadline, read_whole(socket)).await.unwrap_or(Err(NoHeader("it took too long")))
}

async fn read_whole(socket: &mut Socket) -> Result<Announced, NoHeader> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        if let Parsed::Whole(announced, length) = parse(&bytes)? {
            socket.put_back(&bytes[length..]);
            return Ok(announced);
        }
        match socket.read_buf(&mut bytes).await {
            Ok(read) if read > 0 => {}
            _ => return Err(NoHeader("the connection ended inside it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Announced {
        Announced::Client(text.parse().unwrap())
    }

    fn whole(bytes: &[u8]) -> (Announced, usize) {
        match parse(bytes) {
            Ok(Parsed::Whole(announced, length)) => (announced, length),
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    const V4_BODY: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn version_1_names_the_client_and_ends_with_its_line() {
        let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(whole(line), (client("203.0.113.7:56324"), 44));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 1 0\r\n";
        assert_eq!(whole(line), (client("[2001:db8::7]:1"), line.len()));
    }

    #[test]
    fn unknown_and_local_mean_the_connections_own_peer() {
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), (Announced::Own, 15));
        assert_eq!(whole(b"PROXY UNKNOWN ff:: :: 1 2\r\nx").0, Announced::Own);
        assert_eq!(whole(&v2(0x20, 0x00, &[])), (Announced::Own, 16));
        assert_eq!(whole(&v2(0x20, 0x11, &V4_BODY)).0, Announced::Own);
        assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])).0, Announced::Own);
        assert_eq!(whole(&v2(0x21, 0x00, &[])).0, Announced::Own);
    }

    #[test]
    fn version_1_off_the_grammar_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!(long.len(), 108);
        for line in [
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\rx",
            "PROXY TCP4  203.0.113.7 192.0.2.1 56324 443\r\n",
            "PROXY TCP4 203.0.113.07 192.0.2.1 56324 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 056324 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324 65536\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 +1 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 1 443 \r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n",
            "PROXY TCP6 203.0.113.7 192.0.2.1 1 443\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY UDP4 203.0.113.7 192.0.2.1 1 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY\r\n",
            "PUT / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\nPROXY UNKNOWN\r\n",
            &long,
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_line_of_107_bytes_is_the_longest() {
        let line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(whole(line.as_bytes()), (Announced::Own, 107));
    }

    #[test]
    fn every_beginning_of_a_header_asks_for_more() {
        let v6 = [&[0x20; 32][..], &[1, 2, 3, 4]].concat();
        let headers = [
            b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n".to_vec(),
            v2(0x21, 0x11, &V4_BODY),
            v2(0x21, 0x21, &v6),
        ];
        for header in headers {
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(Parsed::More), "{length} of {header:?}");
            }
            assert_eq!(whole(&header).1, header.len());
        }
    }

    #[test]
    fn version_2_names_the_client_and_honours_its_length() {
        let mut bytes = v2(0x21, 0x11, &V4_BODY);
        assert_eq!(whole(&bytes), (client("203.0.113.7:56324"), 28));
        bytes.extend_from_slice(b"payload");
        assert_eq!(whole(&bytes).1, 28);
        let v6 = [&[0x20; 32][..], &[0x00, 0x50, 3, 4]].concat();
        let source = "[2020:2020:2020:2020:2020:2020:2020:2020]:80";
        assert_eq!(whole(&v2(0x21, 0x22, &v6)).0, client(source));
    }

    #[test]
    fn version_2_off_the_grammar_is_refused() {
        let long = [&V4_BODY[..], &[0x04, 0x0f, 0xff], &vec![0; 4095]].concat();
        for header in [
            v2(0x11, 0x11, &V4_BODY),
            v2(0x22, 0x11, &V4_BODY),
            v2(0x21, 0x13, &V4_BODY),
            v2(0x21, 0x41, &V4_BODY),
            v2(0x21, 0x10, &V4_BODY),
            v2(0x21, 0x11, &V4_BODY[..11]),
            v2(0x21, 0x31, &[0; 108]),
            v2(0x21, 0x11, &long),
        ] {
            assert!(parse(&header).is_err(), "{:?}", &header[..16]);
        }
    }

    #[test]
    fn a_tlv_must_fit_where_it_stands() {
        let with = |tlvs: &[u8]| parse(&v2(0x21, 0x11, &[&V4_BODY[..], tlvs].concat()));
        assert!(with(&[0x01, 0, 2, b'h', b'2']).is_ok());
        assert!(with(&[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 0]).is_ok());
        assert!(with(&[0x01, 0, 3, b'h', b'2']).is_err());
        assert!(with(&[0x01, 0]).is_err());
        assert!(with(&[0x20, 0, 4, 1, 0, 0, 0]).is_err());
        assert!(with(&[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1]).is_err());
        let id = |length: u8| [&[0x05, 0, length][..], &vec![7; usize::from(length)]].concat();
        assert!(with(&id(128)).is_ok());
        assert!(with(&id(129)).is_err());
    }

    #[test]
    fn a_checksum_must_match_when_there_is_one() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let mut header = v2(0x21, 0x11, &[&V4_BODY[..], &[0x03, 0, 4, 0, 0, 0, 0]].concat());
        let right = crc32c(header.iter().copied()).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&right);
        assert_eq!(whole(&header).0, client("203.0.113.7:56324"));
        header[at] ^= 1;
        assert!(parse(&header).is_err());
        assert!(parse(&v2(0x21, 0x11, &[&V4_BODY[..], &[0x03, 0, 1, 0]].concat())).is_err());
    }
}
