//! A real Kannel on loopback: bearerbox, smsbox and, as the carrier, fakesmsc. Their one configuration file is the one that
//! the comment of `config/kannel.yaml` tells people to write, on ports of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::policy::shipped;
use super::wire::{Answer, Request, send};
use super::{START, eventually};

const BEARERBOX: &str = "/usr/sbin/bearerbox";
const SMSBOX: &str = "/usr/sbin/smsbox";
const FAKESMSC: &str = "/usr/lib/kannel/test/fakesmsc";

/// The account of the shipped comment.
pub(crate) const USERNAME: &str = "gate";
/// Its password.
pub(crate) const PASSWORD: &str = "known-to-the-gate-alone";

/// The ports of the shipped comment: admin, smsbox, carrier, sendsms.
const PRINTED_PORTS: [&str; 4] = ["13000", "13001", "13002", "13013"];

type Lines = Arc<Mutex<Vec<String>>>;

/// The three running processes; they are killed when dropped.
#[derive(Debug)]
pub(crate) struct Kannel {
    directory: TempDir,
    children: Vec<Child>,
    /// fakesmsc ends when its standard input does.
    stays: Option<ChildStdin>,
    ports: [u16; 4],
    carrier: Lines,
    logs: Lines,
}

impl Kannel {
    pub(crate) fn start() -> Kannel {
        for program in [BEARERBOX, SMSBOX, FAKESMSC] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing; this test needs: apt-get install -y kannel kannel-extras"
            );
        }
        let directory = TempDir::new().expect("there is room for a directory");
        let ports = free_ports();
        let file = directory.path().join("kannel.conf");
        fs::write(&file, configuration(ports)).expect("a new directory can be written to");
        let mut kannel = Kannel {
            directory,
            children: Vec::new(),
            stays: None,
            ports,
            carrier: Lines::default(),
            logs: Lines::default(),
        };
        let file = file.to_str().expect("temporary directories have plain names");
        kannel.run(BEARERBOX, &["-v", "1", file]);
        kannel.wait("bearerbox opens its ports", |k| k.ports[..3].iter().all(|p| accepts(*p)));
        kannel.run(SMSBOX, &["-v", "1", file]);
        kannel.wait("smsbox opens its port", |k| accepts(k.ports[3]));
        kannel.wait("smsbox is connected", |k| k.status().contains("smsbox:"));
        let port = kannel.ports[2].to_string();
        kannel.run(FAKESMSC, &["-H", "127.0.0.1", "-r", &port, "-m", "0"]);
        kannel.wait("the carrier is online", |k| k.status().contains("(online "));
        kannel
    }

    /// smsbox, as `--upstream` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.smsbox())
    }

    fn smsbox(&self) -> SocketAddr {
        loopback(self.ports[3])
    }

    /// A way to smsbox on which answers can be held up.
    pub(crate) fn relay(&self) -> Relay {
        Relay::to(self.smsbox())
    }

    /// Asks smsbox itself, past the gate.
    pub(crate) fn ask_directly(&self, target: &str) -> Answer {
        send(self.smsbox(), &Request::get(target))
    }

    /// What has arrived at the carrier, in order: `from to text …`.
    pub(crate) fn arrived(&self) -> Vec<String> {
        lines(&self.carrier)
            .iter()
            .filter_map(|line| {
                let (_, message) = line.split_once("Got message ")?;
                let (_, message) = message.split_once('<')?;
                Some(message.strip_suffix('>')?.to_owned())
            })
            .collect()
    }

    /// Waits until `n` messages have arrived, and a little longer for one too many.
    #[track_caller]
    pub(crate) fn has_received_exactly(&self, n: usize) {
        let came = eventually(Duration::from_secs(10), || self.arrived().len() >= n);
        assert!(came, "{n} expected: {:?}\n{}", self.arrived(), self.log());
        thread::sleep(Duration::from_millis(300));
        assert_eq!(self.arrived().len(), n, "{:?}", self.arrived());
    }

    /// What all three wrote.
    pub(crate) fn log(&self) -> String {
        [lines(&self.logs), lines(&self.carrier)].concat().join("\n")
    }

    /// bearerbox's own word on its connections.
    fn status(&self) -> String {
        let page = Request::get("/status.txt?password=change-me");
        send(loopback(self.ports[0]), &page).text()
    }

    fn run(&mut self, program: &str, arguments: &[&str]) {
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("an installed program starts");
        let into = if program == FAKESMSC { &self.carrier } else { &self.logs };
        follow(child.stdout.take().expect("it is piped"), into);
        follow(child.stderr.take().expect("it is piped"), into);
        self.stays = child.stdin.take();
        self.children.push(child);
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Kannel) -> bool) {
        let mut ended = false;
        let mut children = std::mem::take(&mut self.children);
        let came = eventually(START, || {
            ended = children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)));
            ended || done(self)
        });
        self.children = children;
        assert!(came && !ended, "waited in vain: {what}\n{}", self.log());
    }
}

impl Drop for Kannel {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // One that ended by itself needs no kill, and its wait returns at once.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Stands between the gate and smsbox: requests pass at once, answers when they may. It lives as long as the test.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    holds: Arc<AtomicBool>,
}

impl Relay {
    fn to(smsbox: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let holds = Arc::new(AtomicBool::new(false));
        let inside = Arc::clone(&holds);
        thread::spawn(move || {
            for gate in listener.incoming().flatten() {
                let Ok(kannel) = TcpStream::connect(smsbox) else { continue };
                let (Ok(from_gate), Ok(to_kannel)) = (gate.try_clone(), kannel.try_clone()) else {
                    continue;
                };
                let held = Arc::clone(&inside);
                thread::spawn(move || pass(from_gate, to_kannel, || {}));
                thread::spawn(move || {
                    pass(kannel, gate, || {
                        while held.load(Ordering::SeqCst) {
                            thread::sleep(Duration::from_millis(5));
                        }
                    });
                });
            }
        });
        Relay { address, holds }
    }

    /// As `--upstream` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds answers up from now on.
    pub(crate) fn hold(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    /// Lets them pass again.
    pub(crate) fn let_go(&self) {
        self.holds.store(false, Ordering::SeqCst);
    }
}

/// Carries bytes one way until either side is done.
fn pass(mut from: TcpStream, mut to: TcpStream, wait: impl Fn()) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        wait();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Whoever is gone already needs no word of it.
    let _ = to.shutdown(Shutdown::Write);
}

/// The configuration in the head of `config/kannel.yaml`, with these ports.
fn configuration(ports: [u16; 4]) -> String {
    let text = fs::read_to_string(shipped("kannel.yaml")).expect("it is shipped");
    let comment: Vec<_> = text.lines().map_while(|line| line.strip_prefix('#')).collect();
    let from = comment.iter().position(|l| l.contains("group = core")).expect("it starts so");
    let until = comment.iter().position(|l| l.starts_with(" Run it")).expect("it ends so");
    let lines: Vec<_> = comment[from..until].iter().map(|line| line.trim()).collect();
    PRINTED_PORTS.iter().zip(ports).fold(lines.join("\n"), |text, (printed, port)| {
        assert!(text.contains(&format!("= {printed}")), "{printed} is not in {text}");
        text.replace(&format!("= {printed}"), &format!("= {port}"))
    }) + "\n"
}

/// Four ports that were free a moment ago.
fn free_ports() -> [u16; 4] {
    let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("there is a free port"));
    held.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn accepts(port: u16) -> bool {
    TcpStream::connect(loopback(port)).is_ok()
}

fn follow(pipe: impl Read + Send + 'static, into: &Lines) {
    let into = Arc::clone(into);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            into.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}

fn lines(kept: &Lines) -> Vec<String> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
