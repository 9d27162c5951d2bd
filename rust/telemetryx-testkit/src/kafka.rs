//! A real Apache Kafka, one broker or several, as child processes, each on ports and a directory of its own.
//!
//! What `scripts/install-servers` has put under the build directory is what runs here.

mod topics;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::proxy::Proxy;
use crate::service::free_port;
use crate::tools::tool;
pub use topics::KafkaMessage;

/// Java takes its time where everything else is busy as well.
const READY_WAIT_MAX: Duration = Duration::from_secs(180);
/// The id of every cluster, as the tool that formats wants it.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qk";
/// How much of the log is shown when a broker does not start.
const LOG_TAIL_BYTES: usize = 3000;

/// How a cluster is to be started.
#[derive(Debug)]
pub struct KafkaBuilder {
    brokers: usize,
    properties: Vec<String>,
    environment: Vec<(String, String)>,
    proxied: bool,
    listeners: Vec<(&'static str, &'static str)>,
    users: Vec<(&'static str, &'static str)>,
}

impl KafkaBuilder {
    /// Several brokers; a topic has a replica on each, and two must have what is acknowledged.
    #[must_use]
    pub fn brokers(mut self, brokers: usize) -> Self {
        self.brokers = brokers;
        self
    }

    /// A line of `server.properties`, over those that are there.
    #[must_use]
    pub fn property(mut self, line: &str) -> Self {
        self.properties.push(line.to_owned());
        self
    }

    /// An environment variable for each broker.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A broker that is slow to say that it lives keeps its partitions for a minute: for tests that never kill it, on a busy
    /// machine. One that was killed would be refused for so long.
    #[must_use]
    pub fn patient(self) -> Self {
        self.property("broker.session.timeout.ms=60000")
    }

    /// With a proxy before each broker, which is where clients are told to come to.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// One more listener for clients, under this name, which speaks that protocol (`SSL`, `SASL_SSL`, …). What it needs are
    /// [properties](Self::property) `listener.name.<name in lower case>.…`; where it is, says [`Kafka::listener`].
    #[must_use]
    pub fn listener(mut self, name: &'static str, protocol: &'static str) -> Self {
        self.listeners.push((name, protocol));
        self
    }

    /// A user with this password, for `SCRAM-SHA-256` and `SCRAM-SHA-512`.
    #[must_use]
    pub fn scram_user(mut self, name: &'static str, password: &'static str) -> Self {
        self.users.push((name, password));
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// If it does not; the message shows the end of a log.
    #[track_caller]
    pub fn start(self) -> Kafka {
        let folder = tempfile::Builder::new()
            .prefix("telemetryx-kafka-")
            .tempdir()
            .expect("a temporary directory can be made");
        let nodes: Vec<_> = (0..self.brokers)
            .map(|_| {
                let port = free_port();
                Node {
                    port,
                    direct_port: free_port(),
                    controller_port: free_port(),
                    proxy: self.proxied.then(|| Proxy::start(port)),
                    listeners: self.listeners.iter().map(|_| free_port()).collect(),
                    process: Process::default(),
                }
            })
            .collect();
        let mut kafka = Kafka {
            folder,
            nodes,
            environment: self.environment.clone(),
            listeners: self.listeners.iter().map(|(name, _)| *name).collect(),
        };
        for node in 0..self.brokers {
            kafka.prepare(node, &self);
            kafka.run(node);
        }
        kafka.wait_until_ready();
        kafka
    }
}

/// Running (or killed, or hung) brokers. Dropping them kills them and removes what they kept.
#[derive(Debug)]
pub struct Kafka {
    nodes: Vec<Node>,
    folder: TempDir,
    environment: Vec<(String, String)>,
    listeners: Vec<&'static str>,
}

#[derive(Debug)]
struct Node {
    /// For clients.
    port: u16,
    /// For other brokers, and for what tests ask: never over a proxy, and open to all.
    direct_port: u16,
    controller_port: u16,
    /// Of the listeners besides.
    listeners: Vec<u16>,
    proxy: Option<Proxy>,
    process: Process,
}

impl Node {
    fn advertised(&self) -> u16 {
        self.proxy.as_ref().map_or(self.port, Proxy::port)
    }
}

impl Kafka {
    /// Starts one broker, which makes a topic of 12 partitions when one is first named.
    ///
    /// # Panics
    /// If Kafka is not there (`scripts/install-servers`) or does not start.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// To start other than one broker with the usual settings.
    pub fn builder() -> KafkaBuilder {
        KafkaBuilder {
            brokers: 1,
            properties: Vec::new(),
            environment: Vec::new(),
            proxied: false,
            listeners: Vec::new(),
            users: Vec::new(),
        }
    }

    /// Where clients connect to: `127.0.0.1:<port>`, of several with commas between them. The same after a restart.
    pub fn brokers(&self) -> String {
        let each = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.advertised()));
        each.collect::<Vec<_>>().join(",")
    }

    /// Where the listener of that name is, of every broker.
    ///
    /// # Panics
    /// If it was started without such a [`KafkaBuilder::listener`].
    #[track_caller]
    pub fn listener(&self, name: &str) -> String {
        let place = self.listeners.iter().position(|listener| *listener == name);
        let place = place.expect("it was built with such a listener");
        let ports = self.nodes.iter().map(|node| node.listeners[place]);
        let each = ports.map(|port| format!("127.0.0.1:{port}"));
        each.collect::<Vec<_>>().join(",")
    }

    /// The proxy before a broker.
    ///
    /// # Panics
    /// If it was started without [`KafkaBuilder::proxied`].
    #[track_caller]
    pub fn proxy(&self, broker: usize) -> &Proxy {
        self.nodes[broker]
            .proxy
            .as_ref()
            .expect("it was built with proxies")
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self, broker: usize) {
        self.nodes[broker].process.kill();
    }

    /// Starts it again where it was, and waits until all answer.
    #[track_caller]
    pub fn restart(&mut self, broker: usize) {
        if self.nodes[broker].process.is_there() {
            self.kill(broker);
        }
        self.run(broker);
        self.wait_until_ready();
    }

    /// SIGTERM: it hands over what it leads, and ends.
    #[track_caller]
    pub fn terminate(&mut self, broker: usize) {
        self.nodes[broker].process.signal(Signal::TERM);
        let mut child = self.nodes[broker].process.take();
        child.wait().expect("the broker can be waited for");
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    #[track_caller]
    pub fn hang(&self, broker: usize) {
        self.nodes[broker].process.signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub fn go_on(&self, broker: usize) {
        self.nodes[broker].process.signal(Signal::CONT);
    }

    /// What a broker has written.
    pub fn log(&self, broker: usize) -> String {
        let bytes = std::fs::read(self.path(broker, "log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn path(&self, node: usize, name: &str) -> PathBuf {
        self.folder.path().join(format!("{node}-{name}"))
    }

    /// A formatted directory and the settings.
    fn prepare(&self, node: usize, builder: &KafkaBuilder) {
        let text = self.properties(node, builder);
        std::fs::write(self.path(node, "properties"), text).expect("a file can be written");
        if !builder.users.is_empty() {
            return self.format(node, &builder.users);
        }
        let data = self.path(node, "data");
        std::fs::create_dir(&data).expect("a directory can be made");
        let formatted = installed().join("formatted");
        std::fs::copy(
            formatted.join("bootstrap.checkpoint"),
            data.join("bootstrap.checkpoint"),
        )
        .expect("Kafka is installed (scripts/install-servers)");
        let id = node + 1;
        // 16 bytes as base64 for each.
        let meta = format!(
            "version=1\ncluster.id={CLUSTER}\nnode.id={id}\ndirectory.id=rnLgVykk4jFlTsdQoy{id:02}XA\n"
        );
        std::fs::write(data.join("meta.properties"), meta).expect("a file can be written");
    }

    /// Formats the directory with Kafka's own tool, which is slower, and knows of users.
    fn format(&self, node: usize, users: &[(&str, &str)]) {
        let mut java = java("64m");
        java.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"])
            .arg(self.path(node, "properties"));
        for (name, password) in users {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                let user = format!("{mechanism}=[name={name},password={password}]");
                java.args(["--add-scram", &user]);
            }
        }
        let done = java.output().expect("there is a `java`");
        assert!(
            done.status.success(),
            "a directory can be formatted: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn properties(&self, node: usize, builder: &KafkaBuilder) -> String {
        let id = node + 1;
        let all = self.nodes.len();
        let this = &self.nodes[node];
        let voters = self.nodes.iter().zip(1..);
        let voters: Vec<_> = voters
            .map(|(node, id)| format!("{id}@127.0.0.1:{}", node.controller_port))
            .collect();
        let least = if all > 2 { 2 } else { 1 };
        let more = std::iter::zip(&builder.listeners, &this.listeners);
        let (mut listeners, mut protocols) = (String::new(), String::new());
        for ((name, protocol), port) in more {
            listeners.push_str(&format!(",{name}://127.0.0.1:{port}"));
            protocols.push_str(&format!(",{name}:{protocol}"));
        }
        let data = self.path(node, "data");
        let mut text = format!(
            "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=CLIENTS://127.0.0.1:{port},DIRECT://127.0.0.1:{direct},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=CLIENTS://127.0.0.1:{advertised},DIRECT://127.0.0.1:{direct}{listeners}
inter.broker.listener.name=DIRECT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CLIENTS:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
log.dirs={data}
num.partitions=12
default.replication.factor={all}
min.insync.replicas={least}
offsets.topic.replication.factor={all}
log.retention.ms=-1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={all}
transaction.state.log.min.isr={least}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={all}
share.coordinator.state.topic.min.isr={least}
group.initial.rebalance.delay.ms=0
num.network.threads={threads}
num.io.threads=2
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms={heartbeat}
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1500
",
            voters = voters.join(","),
            port = this.port,
            controller = this.controller_port,
            direct = this.direct_port,
            advertised = this.advertised(),
            data = data.display(),
            threads = if all > 1 { 1 } else { 2 },
            // A killed broker is refused until its session ends.
            session = if all > 1 { 3000 } else { 1500 },
            heartbeat = if all > 1 { 500 } else { 300 },
        );
        for line in &builder.properties {
            let name = line.split('=').next().unwrap_or_default();
            text = text
                .lines()
                .filter(|have| have.split('=').next() != Some(name))
                .map(|have| format!("{have}\n"))
                .collect();
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn run(&mut self, node: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(node, "log"))
            .expect("the log can be opened");
        let errors = log.try_clone().expect("a file can be used twice");
        let child = java("384m")
            .arg("kafka.Kafka")
            .arg(self.path(node, "properties"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("there is a `java` (scripts/install-servers)");
        self.nodes[node].process.began(child);
    }

    /// Each broker that runs answers, and knows of the others that run.
    #[track_caller]
    fn wait_until_ready(&mut self) {
        let begun = Instant::now();
        let running = self
            .nodes
            .iter()
            .filter(|node| node.process.is_there())
            .count();
        for node in 0..self.nodes.len() {
            let mut client = self.client();
            let direct = self.nodes[node].direct_port;
            client.set("bootstrap.servers", format!("127.0.0.1:{direct}"));
            let Some(child) = self.nodes[node].process.child() else {
                continue;
            };
            let consumer: BaseConsumer = client.create().expect("the settings are right");
            loop {
                let found = consumer.fetch_metadata(None, Duration::from_millis(500));
                if found.is_ok_and(|found| found.brokers().len() >= running) {
                    break;
                }
                let ended = child.try_wait().expect("the broker can be waited for");
                if ended.is_some() || begun.elapsed() > READY_WAIT_MAX {
                    let log = std::fs::read(self.folder.path().join(format!("{node}-log")));
                    let log = log.unwrap_or_default();
                    let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
                    panic!(
                        "Kafka does not start; the end of its log:\n{}",
                        String::from_utf8_lossy(tail)
                    );
                }
            }
        }
    }
}

/// Java with Kafka's classes, and so much memory at the most.
fn java(memory: &str) -> Command {
    let installed = installed();
    let archive = installed.join("classes.jsa");
    let mut java = Command::new("java");
    java.args(["-Xms64m", &format!("-Xmx{memory}"), "-XX:+UseSerialGC"])
        .arg("-XX:TieredStopAtLevel=1")
        .arg(format!("-XX:SharedArchiveFile={}", archive.display()))
        .arg("-cp")
        .arg(installed.join("libs/*"));
    java
}

/// Where `scripts/install-servers` puts it.
fn installed() -> PathBuf {
    // As the class archive knows it.
    tool("kafka")
        .canonicalize()
        .expect("Kafka is installed (scripts/install-servers)")
}
