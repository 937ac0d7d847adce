//! A client whose connection may break at any byte. It says so instead of failing the test: where gates are killed, a lost
//! answer is an observation.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::wire::{Answer, Request, find};

/// The longest silence that counts as an answer still to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kept connection.
#[derive(Debug)]
pub(crate) struct Frail {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Frail {
    pub(crate) fn to(address: SocketAddr) -> Result<Frail> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Frail { stream, unread: Vec::new() })
    }

    /// Sends a request and reads its whole answer. After an error the connection is of no more use.
    pub(crate) fn exchange(&mut self, request: &Request) -> Result<Answer> {
        self.stream.write_all(&request.bytes())?;
        let end = self.until(|bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4))?;
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let mut answer = parse(&String::from_utf8_lossy(&head))?;
        if answer.header("transfer-encoding").is_some() {
            self.chunks(&mut answer.body)?;
        } else {
            let length = answer.header("content-length").and_then(|text| text.parse().ok());
            let length: usize = length.ok_or_else(|| broken("an answer without a length"))?;
            self.until(|bytes| (bytes.len() >= length).then_some(length))?;
            answer.body = self.unread.drain(..length).collect();
        }
        Ok(answer)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<()> {
        loop {
            let end = self.until(|bytes| find(bytes, b"\r\n").map(|at| at + 2))?;
            let line: Vec<u8> = self.unread.drain(..end).collect();
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16)
                .map_err(|_| broken("a chunk without a size"))?;
            self.until(|bytes| (bytes.len() >= size + 2).then_some(size + 2))?;
            body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> Result<usize> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(end) = enough(&self.unread) {
                return Ok(end);
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(broken("closed before the end of an answer")),
                read => self.unread.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// Sends a request on a connection of its own, if there is somebody to connect to.
pub(crate) fn attempt(address: SocketAddr, request: &Request) -> Result<Answer> {
    Frail::to(address)?.exchange(request)
}

fn parse(head: &str) -> Result<Answer> {
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(|| broken("no status line"))?,
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        body: Vec::new(),
    })
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::UnexpectedEof, why)
}
