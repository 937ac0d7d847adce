//! Listening sockets: one per address, ours or handed over by systemd, bound before any worker starts so that every
//! problem is known at once. Never accepts.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::policy::snapshot::Listener;

/// Connections that wait for `accept`; the kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that listens, with what the policy says of it.
#[derive(Debug)]
pub struct Bound {
    socket: TcpListener,
    address: SocketAddr,
    tls: bool,
    proxy_protocol: bool,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct BindProblem {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub error: io::Error,
}

impl fmt::Display for BindProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindProblem { address, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "{address} is taken by another process; stop it (`ss -ltnp` names it) or listen elsewhere"
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "{address} may not be listened on by this user; take a port above 1023 or give CAP_NET_BIND_SERVICE"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{address} is no address of this machine; `ip address` lists them")
            }
            _ => write!(f, "{address} cannot be listened on: {error}"),
        }
    }
}

impl std::error::Error for BindProblem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The listening sockets of a gate.
#[derive(Debug)]
pub struct Listeners;

impl Listeners {
    /// The TCP sockets that the service manager handed over, to be given to [`Listeners::bind`].
    pub fn inherited(mut handed: ListenFd) -> Vec<TcpListener> {
        (0..handed.len()).filter_map(|at| handed.take_tcp_listener(at).ok().flatten()).collect()
    }

    /// Listens on every address of the policy. An inherited socket of the same address is taken out of `inherited`;
    /// what stays there is another's.
    pub fn bind(
        wanted: &[Listener],
        inherited: &mut Vec<TcpListener>,
    ) -> Result<Vec<Bound>, BindProblem> {
        wanted.iter().map(|listener| bind_one(listener, inherited)).collect()
    }
}

fn bind_one(listener: &Listener, inherited: &mut Vec<TcpListener>) -> Result<Bound, BindProblem> {
    let mine = inherited
        .iter()
        .position(|socket| socket.local_addr().ok() == Some(listener.address))
        .map(|at| inherited.swap_remove(at));
    let socket = match mine {
        Some(socket) => socket.set_nonblocking(true).map(|()| socket),
        None => listen(listener.address),
    };
    let bound = socket.and_then(|socket| {
        // What is accepted inherits it.
        socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive())?;
        Ok(Bound {
            address: socket.local_addr()?,
            socket,
            tls: listener.tls.is_some(),
            proxy_protocol: listener.proxy_protocol,
        })
    });
    bound.map_err(|error| BindProblem { address: listener.address, error })
}

/// Asks a silent peer whether it is still there: a tunnel has no deadline, and one whose other end has lost its network
/// would hold its connection and its slots for ever. About two and a half minutes.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(30))
        .with_retries(3)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // One socket, one family: `0.0.0.0` and `[::]` can both be listed.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Bound {
    /// The address, with the port that the system chose where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether connections begin with a TLS handshake.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Whether connections begin with a PROXY header.
    pub fn proxy_protocol(&self) -> bool {
        self.proxy_protocol
    }

    /// The same socket once more, for one more worker.
    pub(crate) fn share(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: SocketAddr) -> Listener {
        Listener { address, tls: None, proxy_protocol: false }
    }

    #[test]
    fn a_taken_port_is_named_with_a_way_out() {
        let any = "127.0.0.1:0".parse().unwrap();
        let first = Listeners::bind(&[on(any)], &mut Vec::new()).unwrap();
        let address = first[0].local_addr();
        assert_ne!(address.port(), 0);
        let problem = Listeners::bind(&[on(address)], &mut Vec::new()).unwrap_err();
        assert_eq!(problem.address, address);
        let said = problem.to_string();
        assert!(said.contains(&address.to_string()) && said.contains("taken"), "{said}");
    }

    #[test]
    fn an_inherited_socket_is_taken_over_and_others_are_left() {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (mine, other) = (socket(), socket());
        let address = mine.local_addr().unwrap();
        let mut inherited = vec![other, mine];
        let bound = Listeners::bind(&[on(address)], &mut inherited).unwrap();
        assert_eq!(bound[0].local_addr(), address);
        assert_eq!(inherited.len(), 1);
    }

    #[test]
    fn an_accepted_connection_finds_out_that_its_other_end_is_gone() {
        let any = "127.0.0.1:0".parse().unwrap();
        let own = Listeners::bind(&[on(any)], &mut Vec::new()).unwrap();
        let handed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = handed.local_addr().unwrap();
        let handed = Listeners::bind(&[on(address)], &mut vec![handed]).unwrap();
        for bound in [own, handed].iter().flatten() {
            let _client = std::net::TcpStream::connect(bound.local_addr()).unwrap();
            let accepted = loop {
                match bound.socket.accept() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    accepted => break accepted.unwrap().0,
                }
            };
            let accepted = socket2::SockRef::from(&accepted);
            assert!(accepted.keepalive().unwrap());
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_mins(1));
        }
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let elsewhere = "192.0.2.1:8080".parse().unwrap();
        let problem = Listeners::bind(&[on(elsewhere)], &mut Vec::new()).unwrap_err();
        assert!(problem.to_string().contains("no address of this machine"), "{problem}");
    }
}
