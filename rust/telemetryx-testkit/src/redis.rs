//! A real Redis server as a child process, on a port and a directory of its own.

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::process::Process;
use crate::service::free_port;

const READY_WAIT_MAX: Duration = Duration::from_secs(20);
/// No answer within this time fails the test.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// A running (or killed, or hung) Redis that keeps what it has answered. Dropping it kills it and removes its directory.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    password: Option<String>,
}

/// What Redis answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAnswer {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// An error in its own words.
    Error(String),
    /// Several answers.
    List(Vec<RedisAnswer>),
}

impl RedisServer {
    /// Starts one that writes each answer to its log and syncs it before it answers (`appendfsync always`).
    ///
    /// # Panics
    /// If `redis-server` is not there (`scripts/install-servers`) or does not start.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments; `--requirepass P` is also the password of [`connect`](Self::connect).
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("telemetryx-redis-")
            .tempdir();
        let password = arguments
            .windows(2)
            .find(|pair| pair[0] == "--requirepass")
            .map(|pair| pair[1].to_owned());
        let mut server = Self {
            folder: folder.expect("a temporary directory can be made"),
            port: free_port(),
            arguments: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
            password,
            process: Process::default(),
        };
        server.run();
        server
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Where it listens; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps what it keeps.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again where it was.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.process.is_there() {
            self.kill();
        }
        self.run();
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    #[track_caller]
    pub fn hang(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }

    /// A connection.
    #[track_caller]
    pub fn connect(&self) -> RedisConnection {
        let mut connection =
            RedisConnection::open(&self.address()).expect("Redis takes connections");
        if let Some(password) = &self.password {
            connection.ask(&["AUTH", password]);
        }
        connection
    }

    /// One command on a connection of its own.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> RedisAnswer {
        self.connect().ask(command)
    }

    #[track_caller]
    fn run(&mut self) {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--logfile", "log", "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("there is a `redis-server` (scripts/install-servers)");
        self.process.began(child);
        eventually(READY_WAIT_MAX, "Redis answers", || {
            let Ok(mut connection) = RedisConnection::open(&self.address()) else {
                return false;
            };
            // One that wants a password answers too.
            connection
                .try_ask(&["PING"])
                .is_ok_and(|answer| !matches!(answer, RedisAnswer::Error(words) if words.starts_with("LOADING")))
        });
    }
}

/// A connection to Redis that knows as much of its protocol as tests need.
#[derive(Debug)]
pub struct RedisConnection {
    reader: BufReader<TcpStream>,
}

impl RedisConnection {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn open(address: &str) -> Result<Self, Error> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
        Ok(Self {
            reader: BufReader::new(socket),
        })
    }

    /// One command.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn ask(&mut self, command: &[&str]) -> RedisAnswer {
        match self.try_ask(command) {
            Ok(answer) => answer,
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// One command, whose answer may fail to come.
    ///
    /// # Errors
    /// The system's.
    pub fn try_ask(&mut self, command: &[&str]) -> Result<RedisAnswer, Error> {
        let mut bytes = format!("*{}\r\n", command.len());
        for word in command {
            bytes += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.reader.get_mut().write_all(bytes.as_bytes())?;
        self.read()
    }

    /// The next answer, also one that was not asked for, as those of a subscription.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self) -> Result<RedisAnswer, Error> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let line = line.trim_end();
        let Some((kind, rest)) = line.split_at_checked(1) else {
            return Err(Error::other("Redis closed the connection"));
        };
        let number = || rest.parse::<i64>().map_err(Error::other);
        Ok(match kind {
            "+" => RedisAnswer::Text(rest.to_owned()),
            "-" => RedisAnswer::Error(rest.to_owned()),
            ":" => RedisAnswer::Number(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => RedisAnswer::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.reader.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    RedisAnswer::Text(String::from_utf8_lossy(&bytes).into_owned())
                }
            },
            "*" => {
                let count = number()?.max(0);
                RedisAnswer::List((0..count).map(|_| self.read()).collect::<Result<_, _>>()?)
            }
            _ => return Err(Error::other(format!("Redis said {line:?}"))),
        })
    }
}

impl RedisAnswer {
    /// The text.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("{other:?} is no text"),
        }
    }

    /// The number, also one that is written as a text.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.parse().expect("the text is a number"),
            other => panic!("{other:?} is no number"),
        }
    }

    /// The answers in it.
    ///
    /// # Panics
    /// If it is no list.
    #[track_caller]
    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            other => panic!("{other:?} is no list"),
        }
    }
}
