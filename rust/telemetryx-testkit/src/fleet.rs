//! Several processes of the service with the same settings, each with roles, ports and a directory of its own.

use std::path::PathBuf;

use crate::service::Service;

/// How a fleet is to be started.
#[derive(Debug)]
pub struct FleetBuilder {
    binary: PathBuf,
    config: String,
    environment: Vec<(String, String)>,
    /// Whose it is, name and value.
    own_environment: Vec<(String, String, String)>,
    members: Vec<(String, String)>,
}

impl FleetBuilder {
    /// Settings of all, as YAML, without `roles`.
    #[must_use]
    pub fn config(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.config);
        self
    }

    /// An environment variable for all.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An environment variable for one.
    #[must_use]
    pub fn env_of(mut self, member: &str, name: &str, value: &str) -> Self {
        let [member, name, value] = [member, name, value].map(str::to_owned);
        self.own_environment.push((member, name, value));
        self
    }

    /// A process of this name with these roles, parted by commas.
    #[must_use]
    pub fn member(mut self, name: &str, roles: &str) -> Self {
        self.members.push((name.to_owned(), roles.to_owned()));
        self
    }

    /// So many processes with the same roles: `<name>-1` and so on.
    #[must_use]
    pub fn members(mut self, count: usize, name: &str, roles: &str) -> Self {
        for number in 1..=count {
            self = self.member(&format!("{name}-{number}"), roles);
        }
        self
    }

    /// Starts them, one after the other, and waits until each answers.
    ///
    /// # Panics
    /// If one does not; the message shows its log.
    #[track_caller]
    pub fn start(mut self) -> Fleet {
        let members = std::mem::take(&mut self.members);
        let mut fleet = Fleet {
            settings: self,
            members: Vec::new(),
        };
        for (name, roles) in members {
            fleet.add(&name, &roles);
        }
        fleet
    }
}

/// Processes that run, or were killed, or hang. Dropping it kills all of them and removes what they kept.
#[derive(Debug)]
pub struct Fleet {
    settings: FleetBuilder,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    roles: String,
    service: Service,
}

impl Fleet {
    /// To start processes of this binary.
    pub fn builder(binary: impl Into<PathBuf>) -> FleetBuilder {
        FleetBuilder {
            binary: binary.into(),
            config: String::new(),
            environment: Vec::new(),
            own_environment: Vec::new(),
            members: Vec::new(),
        }
    }

    /// One process more, as when somebody scales out; waits until it answers.
    ///
    /// # Panics
    /// If it does not, or there is one of this name.
    #[track_caller]
    pub fn add(&mut self, name: &str, roles: &str) -> &mut Service {
        assert!(!self.names().any(|have| have == name), "`{name}` is there");
        let settings = &self.settings;
        let config = format!("roles: [{roles}]\n{}", settings.config);
        let builder = Service::builder(&settings.binary).config(&config);
        let own = settings.own_environment.iter();
        let own = own.filter(|(member, ..)| member == name);
        let builder = settings
            .environment
            .iter()
            .map(|(name, value)| (name, value))
            .chain(own.map(|(_, name, value)| (name, value)))
            .fold(builder, |builder, (name, value)| builder.env(name, value));
        let service = builder.start();
        self.members.push(Member {
            name: name.to_owned(),
            roles: roles.to_owned(),
            service,
        });
        self.get_mut(name)
    }

    /// The names of all, in the order in which they were started.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The process of this name: where it is, and to ask it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn get(&self, name: &str) -> &Service {
        let found = self.members.iter().find(|member| member.name == name);
        let found = found.unwrap_or_else(|| panic!("there is no `{name}`: {:?}", self.known()));
        &found.service
    }

    /// The process of this name, to kill, hang or restart it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn get_mut(&mut self, name: &str) -> &mut Service {
        let known = self.known();
        let found = self.members.iter_mut().find(|member| member.name == name);
        let found = found.unwrap_or_else(|| panic!("there is no `{name}`: {known:?}"));
        &mut found.service
    }

    /// Those with this role, running or not.
    pub fn with_role(&self, role: &str) -> Vec<&Service> {
        self.members
            .iter()
            .filter(|member| member.roles.split(',').any(|has| has.trim() == role))
            .map(|member| &member.service)
            .collect()
    }

    /// All of them, running or not.
    pub fn all(&self) -> impl Iterator<Item = &Service> {
        self.members.iter().map(|member| &member.service)
    }

    /// Starts all that were killed or ended, and lets those go on that hang.
    ///
    /// # Panics
    /// If one does not start; the message shows its log.
    #[track_caller]
    pub fn restore(&mut self) {
        for member in &mut self.members {
            if member.service.is_running() {
                member.service.go_on();
            } else {
                member.service.restart();
            }
        }
    }

    fn known(&self) -> Vec<String> {
        self.names().map(str::to_owned).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in self.members.drain(..) {
            if std::thread::panicking() {
                eprintln!("--- {} ({}) ---", member.name, member.roles);
            }
            drop(member.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::{Connection, eventually};

    /// Answers with its roles, whatever it is asked.
    const PROGRAM: &str = r#"#!/usr/bin/env python3
import http.server, os, sys
roles = open(sys.argv[sys.argv.index("--config") + 1]).readline().encode()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(roles)))
        self.end_headers()
        self.wfile.write(roles)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["TELEMETRYX_HTTP__PORT"])), Handler).serve_forever()
"#;

    #[test]
    fn members_are_killed_hung_and_restarted_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, PROGRAM).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut fleet = Fleet::builder(&program)
            .config("routes: []\n")
            .members(2, "ingest", "ingest, query")
            .member("deliver", "deliver")
            .start();
        assert_eq!(
            fleet.names().collect::<Vec<_>>(),
            ["ingest-1", "ingest-2", "deliver"]
        );
        assert_eq!(fleet.with_role("query").len(), 2);
        assert_eq!(fleet.with_role("deliver").len(), 1);
        assert_eq!(fleet.get("deliver").get("/").text(), "roles: [deliver]\n");

        fleet.get_mut("ingest-1").kill();
        assert!(Connection::open(&fleet.get("ingest-1").address()).is_err());
        assert_eq!(fleet.get("ingest-2").get("/").status, 200);

        fleet.get("ingest-2").hang();
        let state = format!("/proc/{}/stat", fleet.get("ingest-2").pid());
        let is = |wanted: &str| std::fs::read_to_string(&state).unwrap().contains(wanted);
        eventually(Duration::from_secs(5), "it is stopped", || is(") T "));
        fleet.add("ingest-3", "ingest");
        fleet.restore();
        eventually(Duration::from_secs(5), "it goes on", || !is(") T "));
        let pids: Vec<_> = fleet.all().map(Service::pid).collect();
        for service in fleet.all() {
            assert_eq!(service.get("/").status, 200);
        }
        // One that hangs ends too.
        fleet.get("deliver").hang();
        drop(fleet);
        for pid in pids {
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
    }
}
