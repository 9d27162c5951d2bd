//! A bad network: a TCP proxy before a real server, that can be cut, hung, slowed down, or answer with anything.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a thread looks at one thing before it sees what changed.
const STEP: Duration = Duration::from_millis(10);
const BUFFER_BYTES: usize = 16 << 10;

/// What happens to connections.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Connections are ended as soon as they are there.
    Refused,
    /// Connections are taken; no byte passes either way.
    Hung,
    /// So many bytes a second pass each way.
    Slow(u64),
    /// Whatever is sent, this is the answer, and then the end.
    Garbage(Vec<u8>),
}

/// A proxy on a port of its own. The server may come and go behind it. Dropping it ends every connection.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    weather: Mutex<Weather>,
    /// Connections made before this changed are to end.
    epoch: AtomicU64,
    /// Bytes that may still go to the server before everything is cut; `u64::MAX`: any number.
    credit: AtomicU64,
    connections: AtomicU64,
    ended: AtomicBool,
}

impl Proxy {
    /// Before the server on this port of 127.0.0.1.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port can be had");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            upstream,
            weather: Mutex::new(Weather::Fine),
            epoch: AtomicU64::new(0),
            credit: AtomicU64::new(u64::MAX),
            connections: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let taking = Arc::clone(&shared);
        thread::spawn(move || taking.accept(&listener));
        Self {
            port: address.port(),
            shared,
        }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Everything passes again, on the connections that are there and on new ones.
    pub fn restore(&self) {
        self.shared.credit.store(u64::MAX, Ordering::SeqCst);
        *self.shared.weather() = Weather::Fine;
    }

    /// Ends every connection that is there. New ones pass.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Ends every connection that is there once so many bytes more have gone to the server, in the middle of what is
    /// being sent. New ones pass.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.credit.store(bytes, Ordering::SeqCst);
    }

    /// Whether the cut that [`Proxy::cut_after`] announced has not come yet.
    pub fn will_cut(&self) -> bool {
        self.shared.credit.load(Ordering::SeqCst) != u64::MAX
    }

    /// Ends every connection, also new ones.
    pub fn refuse(&self) {
        *self.shared.weather() = Weather::Refused;
        self.shared.cut();
    }

    /// Connections stay, and new ones are taken, but no byte passes.
    pub fn hang(&self) {
        *self.shared.weather() = Weather::Hung;
    }

    /// So many bytes a second pass each way.
    pub fn slow(&self, bytes_per_second: u64) {
        *self.shared.weather() = Weather::Slow(bytes_per_second);
    }

    /// Ends every connection that is there; a new one gets `answer` to the first thing it sends, and its end.
    pub fn answer_with(&self, answer: &[u8]) {
        *self.shared.weather() = Weather::Garbage(answer.to_vec());
        self.shared.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.cut();
        // Wakes the thread that takes connections.
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok();
    }
}

impl Shared {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            self.connections.fetch_add(1, Ordering::SeqCst);
            let this = Arc::clone(self);
            thread::spawn(move || this.serve(client));
        }
    }

    fn serve(self: Arc<Self>, client: TcpStream) {
        let weather = self.weather().clone();
        match weather {
            Weather::Refused => {}
            Weather::Garbage(answer) => self.answer(client, &answer),
            Weather::Fine | Weather::Hung | Weather::Slow(_) => {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream)) else {
                    return;
                };
                let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else {
                    return;
                };
                let epoch = self.epoch.load(Ordering::SeqCst);
                let this = Arc::clone(&self);
                thread::spawn(move || this.forward(from, to, epoch, true));
                self.forward(server, client, epoch, false);
            }
        }
    }

    fn answer(&self, mut client: TcpStream, answer: &[u8]) {
        let mut buffer = [0; BUFFER_BYTES];
        client.set_read_timeout(Some(Duration::from_secs(1))).ok();
        if client.read(&mut buffer).is_err() {
            return;
        }
        client.write_all(answer).ok();
        client.shutdown(Shutdown::Write).ok();
        // An end with bytes unread would be a reset, and take the answer with it.
        while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }

    /// Passes bytes one way until either end, or a cut, which ends both ways.
    fn forward(&self, mut from: TcpStream, mut to: TcpStream, epoch: u64, to_server: bool) {
        let mut buffer = vec![0; BUFFER_BYTES];
        from.set_read_timeout(Some(STEP)).ok();
        while self.epoch.load(Ordering::SeqCst) == epoch {
            let most = match *self.weather() {
                Weather::Hung => 0,
                Weather::Slow(rate) => (rate * STEP.as_millis() as u64).div_ceil(1000) as usize,
                _ => BUFFER_BYTES,
            };
            if most == 0 {
                thread::sleep(STEP);
                continue;
            }
            let read = match from.read(&mut buffer[..most.min(BUFFER_BYTES)]) {
                Ok(0) => {
                    to.shutdown(Shutdown::Write).ok();
                    return;
                }
                Ok(read) => read,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            if most < BUFFER_BYTES {
                thread::sleep(STEP);
            }
            let passed = match to_server {
                true => self.spend(read),
                false => read,
            };
            if to.write_all(&buffer[..passed]).is_err() || passed < read {
                break;
            }
        }
        from.shutdown(Shutdown::Both).ok();
        to.shutdown(Shutdown::Both).ok();
    }

    /// How many of `bytes` may still go to the server; what is beyond cuts everything.
    fn spend(&self, bytes: usize) -> usize {
        let mut passed = bytes;
        let spent = self
            .credit
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |credit| {
                passed = bytes.min(usize::try_from(credit).unwrap_or(usize::MAX));
                match credit {
                    u64::MAX => None,
                    _ if passed < bytes => Some(u64::MAX),
                    _ => Some(credit - passed as u64),
                }
            });
        if spent.is_ok() && passed < bytes {
            self.cut();
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut writer = stream.try_clone().expect("a clone");
                    std::io::copy(&mut &stream, &mut writer).ok();
                });
            }
        });
        port
    }

    fn answer(stream: &mut TcpStream, text: &[u8]) -> Result<Vec<u8>, ErrorKind> {
        let timeout = Some(Duration::from_millis(300));
        stream.set_read_timeout(timeout).expect("a timeout");
        stream.write_all(text).map_err(|error| error.kind())?;
        let mut got = vec![0; text.len()];
        stream.read_exact(&mut got).map_err(|error| error.kind())?;
        Ok(got)
    }

    #[test]
    fn weather_is_as_it_is_set() {
        let proxy = Proxy::start(echo());
        let connect = || TcpStream::connect(proxy.address()).expect("it listens");
        let mut first = connect();
        assert_eq!(answer(&mut first, b"one"), Ok(b"one".to_vec()));
        proxy.hang();
        // What is under way when it hangs may still pass.
        thread::sleep(2 * STEP);
        assert!(answer(&mut first, b"two").is_err());
        proxy.restore();
        let mut rest = [0; 3];
        first.read_exact(&mut rest).expect("it comes late");
        assert_eq!(&rest, b"two");

        proxy.cut();
        assert!(answer(&mut first, b"three").is_err());
        let mut second = connect();
        assert_eq!(answer(&mut second, b"four"), Ok(b"four".to_vec()));
        proxy.cut_after(2);
        assert!(answer(&mut second, b"five").is_err());
        assert_eq!(answer(&mut connect(), b"six"), Ok(b"six".to_vec()));

        proxy.refuse();
        assert!(answer(&mut connect(), b"seven").is_err());
        proxy.answer_with(b"nonsense");
        assert_eq!(
            answer(&mut connect(), b"question"),
            Ok(b"nonsense".to_vec())
        );
        proxy.restore();
        assert_eq!(answer(&mut connect(), b"eight"), Ok(b"eight".to_vec()));
        assert!(proxy.connections() >= 6);
    }
}
