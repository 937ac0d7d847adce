//! The backend: a small answer to everything, and by path: `/bytes/N` so many bytes, `/events/MS` an event every so many
//! milliseconds, a WebSocket that echoes to who asks for an upgrade. A gRPC call gets its message and `grpc-status: 0`.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::arguments::Arguments;
use crate::wire::{self, PIECE, WEBSOCKET_ACCEPT};

/// Some 250 bytes, as an API's answers are.
const SMALL: &str = concat!(
    "{\"id\":\"0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f\",\"status\":\"ok\",\"items\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,",
    "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}"
);

/// A gRPC message of 32 bytes: not compressed, its length, itself.
const MESSAGE: &[u8] = b"\0\0\0\0\x2032 bytes of a protobuf message...";

/// Listens on what of `--http`, `--h2c` and `--https` is given (the last with `--certificate` and `--key`), until it is ended.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        if let Some(address) = arguments.text("http") {
            let listener = listen(address)?;
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(plain(stream));
                }
            });
        }
        if let Some(address) = arguments.text("h2c") {
            let listener = listen(address)?;
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(streams(stream));
                }
            });
        }
        if let Some(address) = arguments.text("https") {
            let listener = listen(address)?;
            let acceptor = TlsAcceptor::from(Arc::new(served(arguments)?));
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::task::spawn_local(async move {
                        stream.set_nodelay(true)?;
                        serve(acceptor.accept(stream).await?).await
                    });
                }
            });
        }
        std::future::pending().await
    }))
}

fn listen(address: &str) -> io::Result<TcpListener> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn served(arguments: &Arguments) -> io::Result<ServerConfig> {
    let path = |name| {
        arguments
            .text(name)
            .ok_or_else(|| io::Error::other(format!("--{name} is needed beside --https")))
    };
    let chain = CertificateDer::pem_reader_iter(BufReader::new(File::open(path("certificate")?)?));
    let chain = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(path("key")?).map_err(io::Error::other)?;
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)
}

async fn plain(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    serve(stream).await
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    let small = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{SMALL}",
        SMALL.len()
    );
    while let Some(length) = wire::read_head(&mut stream, &mut buffer).await? {
        let head = buffer.split_to(length);
        let path = head[..]
            .split(|byte| *byte == b' ')
            .nth(1)
            .and_then(|path| std::str::from_utf8(path).ok())
            .unwrap_or("/");
        if wire::field(&head, "upgrade")
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
        {
            return echo(stream, buffer).await;
        }
        if let Some(pause) = path.strip_prefix("/events/").and_then(|text| text.parse().ok()) {
            return tell(stream, Duration::from_millis(pause)).await;
        }
        wire::discard(&mut stream, &mut buffer, wire::content_length(&head)).await?;
        match path.strip_prefix("/bytes/").and_then(|text| text.parse().ok()) {
            None => stream.write_all(small.as_bytes()).await?,
            Some(bytes) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                wire::fill(&mut stream, bytes).await?;
            }
        }
        stream.flush().await?;
    }
    Ok(())
}

async fn echo(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut buffer: BytesMut,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {WEBSOCKET_ACCEPT}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    loop {
        let mut back = Vec::new();
        while let Some((head, payload)) = wire::frame(&buffer) {
            let mut message = buffer.split_to(head + payload);
            let body = message.split_off(head);
            let mask = if message[1] & 0x80 == 0 {
                [0; 4]
            } else {
                message[head - 4..].try_into().expect("a mask has four bytes")
            };
            back.push(message[0]);
            back.push(message[1] & 0x7f);
            if message[1] & 0x7f == 126 {
                back.extend_from_slice(&message[2..4]);
            }
            back.extend(body.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        }
        stream.write_all(&back).await?;
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn tell(mut stream: impl AsyncRead + AsyncWrite + Unpin, pause: Duration) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let event = "data: {\"id\":\"0192f0c1-7d3b-7cc3-98c4\",\"status\":\"delivered\"}\n\n";
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let mut ticks = interval_at(Instant::now() + pause, pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        stream.write_all(chunk.as_bytes()).await?;
    }
}

async fn streams(stream: TcpStream) -> Result<(), h2::Error> {
    let _ = stream.set_nodelay(true);
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(1000)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await?;
    while let Some(asked) = connection.accept().await {
        let (request, respond) = asked?;
        tokio::task::spawn_local(stream_of_its_own(request, respond));
    }
    Ok(())
}

async fn stream_of_its_own(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    while let Some(piece) = body.data().await {
        let bytes = piece?.remaining();
        body.flow_control().release_capacity(bytes)?;
    }
    let grpc = head
        .headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut answer = Response::new(());
    let kind = if grpc { "application/grpc" } else { "application/json" };
    answer.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    let mut sending = respond.send_response(answer, false)?;
    if grpc {
        sending.send_data(Bytes::from_static(MESSAGE), false)?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        sending.send_trailers(trailers)
    } else {
        sending.send_data(Bytes::from_static(SMALL.as_bytes()), true)
    }
}
