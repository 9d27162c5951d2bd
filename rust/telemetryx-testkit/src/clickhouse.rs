//! A real ClickHouse server as a child process, on ports and in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::http::Connection;
use crate::process::Process;
use crate::service::free_port;

const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// A running (or killed, or hung) ClickHouse; its user `default` needs no password unless it is given one. Dropping it
/// kills it and removes its directory.
#[derive(Debug)]
pub struct ClickHouse {
    process: Process,
    folder: TempDir,
    data: PathBuf,
    port: u16,
    tcp_port: u16,
}

impl ClickHouse {
    /// Starts one.
    ///
    /// # Panics
    /// If `clickhouse-server` is not there (`scripts/install-servers`) or does not start.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let mut server = Self::prepare();
        server.run();
        server
    }

    /// The same with its data in a folder of another disk.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    #[must_use]
    pub fn start_in(data: &Path) -> Self {
        let mut server = Self::prepare();
        data.clone_into(&mut server.data);
        server.run();
        server
    }

    fn prepare() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("telemetryx-clickhouse-")
            .tempdir();
        let folder = folder.expect("a temporary directory can be made");
        let server = Self {
            data: folder.path().join("data"),
            folder,
            port: free_port(),
            tcp_port: free_port(),
            process: Process::default(),
        };
        server.set_default_user("", "default");
        server
    }

    /// Where its HTTP interface is; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// What it has said since its start.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
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

    /// The password of the user `default`, and its profile: `default` or `readonly`. The user `boss` may always do
    /// everything.
    pub fn set_default_user(&self, password: &str, profile: &str) {
        let user = |name: &str, password: &str, profile: &str| {
            format!(
                "<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>\
                 <profile>{profile}</profile><quota>default</quota></{name}>"
            )
        };
        let users = format!(
            "<yandex><profiles><default></default><readonly><readonly>1</readonly></readonly></profiles>\
             <quotas><default></default></quotas><users>{}{}</users></yandex>",
            user("default", password, profile),
            user("boss", "", "default"),
        );
        // In one step: the server may be reading.
        let file = self.folder.path().join("users.xml");
        let new = self.folder.path().join("users.new");
        std::fs::write(&new, users).expect("the users can be written");
        std::fs::rename(new, file).expect("the users can be put in place");
        if self.process.is_there() {
            self.sql("SYSTEM RELOAD CONFIG");
        }
    }

    /// One statement, and what it answers.
    ///
    /// # Panics
    /// If the server refuses it.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        match self.try_sql(statement) {
            Ok(answer) => answer,
            Err(error) => panic!("{statement}: {error}"),
        }
    }

    /// One statement, which may be refused.
    ///
    /// # Errors
    /// The server's words, or that there is no answer.
    pub fn try_sql(&self, statement: &str) -> Result<String, String> {
        let mut connection =
            Connection::open(&self.address()).map_err(|error| error.to_string())?;
        let answer = connection
            .request(
                "POST",
                "/?user=boss&wait_end_of_query=1",
                &[],
                statement.as_bytes(),
            )
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 200 {
            Ok(text)
        } else {
            Err(text)
        }
    }

    #[track_caller]
    fn run(&mut self) {
        let folder = self.folder.path();
        let data = &self.data;
        std::fs::create_dir_all(data.join("tmp")).expect("its directory can be made");
        let config = format!(
            "<yandex><logger><level>warning</level><console>1</console></logger><http_port>{}</http_port>\
             <tcp_port>{}</tcp_port><listen_host>127.0.0.1</listen_host><timezone>UTC</timezone>\
             <mark_cache_size>67108864</mark_cache_size><path>{data}/</path><tmp_path>{data}/tmp/</tmp_path>\
             <users_config>{}/users.xml</users_config><default_profile>default</default_profile>\
             <default_database>default</default_database></yandex>",
            self.port,
            self.tcp_port,
            folder.display(),
            data = data.display(),
        );
        let file = folder.join("config.xml");
        std::fs::write(&file, config).expect("its config can be written");
        let log = std::fs::File::create(folder.join("log")).expect("its log can be made");
        let child = Command::new("clickhouse-server")
            .arg(format!("--config-file={}", file.display()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("there is a `clickhouse-server` (scripts/install-servers)");
        self.process.began(child);
        eventually(READY_WAIT_MAX, "ClickHouse answers", || {
            self.try_sql("SELECT 1").is_ok()
        });
    }
}
