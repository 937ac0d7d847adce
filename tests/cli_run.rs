//! `tollgate run` and `tollgate demo` as processes: what systemd hears, what signals do, how they end.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its process cannot go on")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const POLICY: &str = "\
version: 1
listen: 127.0.0.1:0
upstream: http://127.0.0.1:9
admin: none
state: memory
record: { to: none }
drain: { delay: 0s, deadline: 2s }
credentials: { accept: [bearer], prefix: t_, keys: t.keys.yaml }
routes:
  - { name: all, match: GET /** }
";

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

struct Desk {
    directory: TempDir,
    notices: UnixDatagram,
}

/// A process that is killed if the test forgets it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        for _ in 0..1000 {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Desk {
    fn new() -> Desk {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("policy.yaml"), POLICY).unwrap();
        fs::write(directory.path().join("t.keys.yaml"), "[]\n").unwrap();
        let notices = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        notices.set_read_timeout(Some(PATIENCE)).unwrap();
        Desk { directory, notices }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, rest: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["run", "--config"]).arg(self.path("policy.yaml")).args(rest);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A gate under a service manager that listens.
    fn run(&self) -> Process {
        let mut command = self.command(&[]);
        command.env("NOTIFY_SOCKET", self.path("notify")).env("WATCHDOG_USEC", "200000");
        command.env_remove("WATCHDOG_PID");
        Process(command.spawn().unwrap())
    }

    fn failing(&self, rest: &[&str]) -> Output {
        self.command(rest).stderr(Stdio::piped()).output().unwrap()
    }

    /// The next notice with this text in it.
    fn notice(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        for _ in 0..200 {
            let length = self.notices.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
        panic!("no {wanted}");
    }

    /// Starts a gate, and where it listens.
    fn ready(&self) -> (Process, SocketAddr) {
        let process = self.run();
        let notice = self.notice("READY=1");
        let address = notice.split("listening on ").nth(1).unwrap().trim();
        (process, address.parse().unwrap())
    }
}

fn status_of(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn systemd_hears_of_readiness_life_reloads_and_the_end() {
    let desk = Desk::new();
    let (mut gate, address) = desk.ready();
    assert_eq!(status_of(address, "GET / HTTP/1.1"), "401");
    desk.notice("WATCHDOG=1");
    gate.signal(Signal::HUP);
    let notice = desk.notice("RELOADING=1");
    assert!(notice.contains("MONOTONIC_USEC="), "{notice}");
    desk.notice("READY=1");
    gate.signal(Signal::TERM);
    desk.notice("STOPPING=1");
    assert_eq!(gate.end().code(), Some(0));
}

#[test]
fn a_key_made_beside_a_running_gate_is_known_to_it_within_a_second() {
    let desk = Desk::new();
    let (mut gate, address) = desk.ready();
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["keys", "new", "--tenant", "acme", "--config"])
        .arg(desk.path("policy.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let secret = String::from_utf8(output.stdout).unwrap();
    let head = format!("GET / HTTP/1.1\r\nAuthorization: Bearer {}", secret.trim_end());
    let admitted = (0..50).any(|_| {
        sleep(Duration::from_millis(50));
        // Nobody listens behind this gate: 502 says that the key was good.
        status_of(address, &head) == "502"
    });
    assert!(admitted);
    gate.signal(Signal::INT);
    assert_eq!(gate.end().code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let desk = Desk::new();
    let slow = POLICY.replace("delay: 0s, deadline: 2s", "delay: 60s, deadline: 60s");
    fs::write(desk.path("policy.yaml"), slow).unwrap();
    let (mut gate, _) = desk.ready();
    gate.signal(Signal::TERM);
    gate.signal(Signal::TERM);
    desk.notice("STOPPING=1");
    sleep(Duration::from_millis(500));
    assert!(gate.0.try_wait().unwrap().is_none(), "two in one breath are one");
    gate.signal(Signal::TERM);
    assert_eq!(gate.end().code(), Some(143));
}

#[test]
fn what_keeps_a_gate_from_starting_has_its_exit_code() {
    let desk = Desk::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = desk.failing(&["--listen", &address]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&address), "{said}");
    assert_eq!(desk.failing(&["--listen", "here"]).status.code(), Some(2));
    fs::write(desk.path("policy.yaml"), POLICY.replace("routes", "rotues")).unwrap();
    let output = desk.failing(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did you mean `routes`?"), "{said}");
}

#[test]
fn the_demonstration_does_what_it_prints_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["demo", "--listen", "127.0.0.1:0"])
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut demo = Process(child);
    let lines: Vec<String> = BufReader::new(demo.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.starts_with("tail"))
        .collect();
    let address = lines[0].split(['/', ',']).nth(2).unwrap().parse().unwrap();
    let heads: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with("curl"))
        .filter_map(|line| line.split("-H '").nth(1)?.split('\'').next())
        .collect();
    let (full, reader) = (heads[0], heads[1]);
    assert_eq!(status_of(address, "POST /sms/send HTTP/1.1"), "401");
    assert_eq!(status_of(address, &format!("POST /sms/send HTTP/1.1\r\n{reader}")), "403");
    assert_eq!(status_of(address, &format!("GET /messages HTTP/1.1\r\n{reader}")), "200");
    let send = format!("POST /sms/send HTTP/1.1\r\n{full}\r\nIdempotency-Key: hello-1");
    assert_eq!(status_of(address, &send), "402", "nothing was topped up yet");
    let credit = lines.iter().find(|line| line.contains(" credit add ")).unwrap();
    assert!(Command::new("sh").args(["-c", credit]).status().unwrap().success());
    assert_ne!(status_of(address, &send), "402");
    let seen: Vec<String> =
        (0..12).map(|_| status_of(address, &format!("GET /balance HTTP/1.1\r\n{full}"))).collect();
    assert_eq!(seen.iter().filter(|status| *status == "200").count(), 9, "{seen:?}");
    assert_eq!(seen.iter().filter(|status| *status == "429").count(), 3, "{seen:?}");
    demo.signal(Signal::INT);
    assert_eq!(demo.end().code(), Some(0));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_demonstration_ends_by_itself_where_asked_to() {
    let status = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["demo", "--listen", "127.0.0.1:0", "--exit-after", "200ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
