//! What every generator asks with: a request for each key of a file, in turn, and a connection to ask on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::arguments::Arguments;

/// A prime: one after the other, neighbours in the file are not neighbours in time.
const STRIDE: usize = 7919;

/// Heads of requests, one for each key, given out in turn.
pub struct Requests {
    heads: Vec<Vec<u8>>,
    at: usize,
}

impl Requests {
    /// From `--path`, `--keys` (a file with a key at the start of each line; without it no key is sent), `--body` (its length in
    /// bytes, with which the method is POST) and the fields in `more`, each with its line's end.
    pub fn new(arguments: &Arguments, more: &str) -> io::Result<Self> {
        let path = arguments.text("path").unwrap_or("/api/v1/items?id=42");
        let (method, length) = match arguments.text("body") {
            None => ("GET", String::new()),
            Some(length) => (
                "POST",
                format!("Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n"),
            ),
        };
        let head = |key: &str| {
            let fields = "Host: api.example\r\nUser-Agent: load/1\r\nAccept: application/json\r\n";
            format!("{method} {path} HTTP/1.1\r\n{fields}{key}{length}{more}\r\n").into_bytes()
        };
        let heads = match arguments.text("keys") {
            None => vec![head("")],
            Some(file) => {
                let keys = std::fs::read_to_string(file)?;
                keys.lines()
                    .filter_map(|line| line.split(' ').next())
                    .map(|key| head(&format!("X-API-Key: {key}\r\n")))
                    .collect()
            }
        };
        if heads.is_empty() {
            return Err(io::Error::other("--keys names a file without keys"));
        }
        Ok(Self { heads, at: 0 })
    }

    /// The next request's head.
    pub fn next(&mut self) -> &[u8] {
        self.at = (self.at + STRIDE) % self.heads.len();
        &self.heads[self.at]
    }
}

/// Reads and writes.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Makes connections, with TLS where a certificate to trust was given.
pub struct Dialer {
    to: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// To `--to`, trusting the certificate in `--trust`. Sessions are not resumed, so that every handshake is a whole one.
    pub fn new(arguments: &Arguments) -> io::Result<Self> {
        let tls = match arguments.text("trust") {
            None => None,
            Some(file) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_file(file).map_err(io::Error::other)?)
                    .map_err(io::Error::other)?;
                let mut config =
                    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
                config.resumption = Resumption::disabled();
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        Ok(Self { to: arguments.to()?, tls })
    }

    /// A new connection, its handshake done.
    pub async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => {
                let name = ServerName::try_from("localhost").expect("localhost is a name");
                Ok(Box::new(tls.connect(name, stream).await?))
            }
        }
    }
}
