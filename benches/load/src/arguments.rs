//! `--name value` pairs of the command line.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// What was given, by name.
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    /// The first word, and the pairs after it.
    pub fn from_command_line() -> (String, Self) {
        let mut words = std::env::args().skip(1);
        let command = words.next().unwrap_or_default();
        let mut given = HashMap::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            given.insert(name.trim_start_matches("--").to_owned(), value);
        }
        (command, Self(given))
    }

    /// The text of `name`, if it was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// `name`, read as what is asked for, or `default` where it was left out.
    pub fn or<T: FromStr>(&self, name: &str, default: T) -> io::Result<T> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| io::Error::other(format!("--{name} {text}: not understood"))),
        }
    }

    /// `--to`: whom to ask.
    pub fn to(&self) -> io::Result<SocketAddr> {
        self.text("to")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| io::Error::other("--to IP:PORT is needed"))
    }

    /// `--seconds`: how long; one second where it was left out.
    pub fn seconds(&self) -> io::Result<Duration> {
        self.or("seconds", 1.0).map(Duration::from_secs_f64)
    }
}
