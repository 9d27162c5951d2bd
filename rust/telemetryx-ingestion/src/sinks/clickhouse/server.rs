//! Statements over HTTP, and what the server's answers mean.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::config::Secret;
use crate::sinks::DeliverError;
use crate::sinks::secret::SinkSecret;
use crate::sinks::web::{Answer, Outgoing, Web, shown};

/// A value that a column of the user's own, or a constraint, cannot be made of: texts, dates and numbers that cannot be
/// parsed, numbers out of range, a NULL too many, an assertion.
const INVALID_DATA: [u32; 11] = [6, 26, 27, 38, 41, 69, 72, 153, 321, 349, 407];
const VIOLATED_CONSTRAINT: u32 = 469;
/// Of a table, or of one insert.
const TOO_MANY_PARTS: u32 = 252;
/// What is around the rows of an insert.
const MULTIPART_BYTES: usize = 256;

/// How the server calls itself: the first two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

/// Who we are to the server, where the URL does not say it.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<SinkSecret>,
}

pub(super) struct Server {
    web: Web,
    login: Login,
}

/// Rows that a statement reads as the table `batch`.
#[derive(Debug)]
pub(super) struct External {
    /// Names and types of the columns.
    pub(super) structure: String,
    /// In `RowBinary`.
    pub(super) rows: Vec<u8>,
}

impl Server {
    pub(super) fn new(web: Web, login: Login) -> Self {
        Self { web, login }
    }

    pub(super) fn web(&self) -> &Web {
        &self.web
    }

    /// The server's version.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`] also if it is another kind of server that answers.
    pub(super) async fn version(&self) -> Result<Version, DeliverError> {
        let answer = self.ask("SELECT version()".to_owned(), 1024).await?;
        let text = String::from_utf8_lossy(&answer).trim().to_owned();
        let mut numbers = text.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Version(major, minor)),
            _ => Err(self.retryable(&format!("this is no ClickHouse: {}", shown(&text)))),
        }
    }

    /// One statement, and what it answers: at most `most` bytes.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`]: no event is to blame for what the server says to a question.
    pub(super) async fn ask(
        &self,
        statement: String,
        most: usize,
    ) -> Result<Vec<u8>, DeliverError> {
        let request = Outgoing {
            // The answer begins once all is known: an error in the middle of it could not be told.
            query: vec![("wait_end_of_query".to_owned(), "1".to_owned())],
            headers: self.headers()?,
            body: statement.into(),
            answer_bytes_max: most,
            ..Outgoing::default()
        };
        let answer = self.web.post(request).await?;
        if !answer.status.is_success() {
            return Err(self.retryable(&answer.said()));
        }
        if answer.is_cut {
            return Err(self.retryable(&format!("an answer has more than {most} bytes")));
        }
        Ok(answer.body)
    }

    /// A statement without an answer.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`].
    pub(super) async fn run(&self, statement: String) -> Result<(), DeliverError> {
        let said = self.ask(statement, 1024).await?;
        self.silent(&said)
    }

    /// A number.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`].
    pub(super) async fn number(&self, statement: String) -> Result<u64, DeliverError> {
        let answer = self.ask(statement, 1024).await?;
        let text = String::from_utf8_lossy(&answer);
        let number = text.trim().parse();
        number.map_err(|_| self.retryable(&format!("no number: {}", shown(&text))))
    }

    /// An insert of rows that go with it. `settings` are of this statement.
    ///
    /// # Errors
    /// [`DeliverError`].
    pub(super) async fn insert(
        &self,
        statement: String,
        external: External,
        mut settings: Vec<(String, String)>,
    ) -> Result<(), DeliverError> {
        settings.push(("query".to_owned(), statement));
        settings.push(("batch_structure".to_owned(), external.structure));
        settings.push(("batch_format".to_owned(), "RowBinary".to_owned()));
        settings.push(("wait_end_of_query".to_owned(), "1".to_owned()));
        // Clients choose what is in the rows, and cannot know this.
        let boundary = format!("telemetryx-{:032x}", fastrand::u128(..));
        let mut body = Vec::with_capacity(external.rows.len() + MULTIPART_BYTES);
        body.extend_from_slice(b"--");
        body.extend_from_slice(boundary.as_bytes());
        body.extend_from_slice(
            b"\r\nContent-Disposition: form-data; name=\"batch\"; filename=\"batch\"\r\n\
              Content-Type: application/octet-stream\r\n\r\n",
        );
        body.extend_from_slice(&external.rows);
        drop(external.rows);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let mut headers = self.headers()?;
        let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
        headers.extend(kind.ok().map(|kind| (CONTENT_TYPE, kind)));
        let request = Outgoing {
            query: settings,
            headers,
            body: body.into(),
            ..Outgoing::default()
        };
        let answer = self.judge(self.web.post(request).await?)?;
        self.silent(&answer.body)
    }

    /// An error with the server's name.
    pub(super) fn retryable(&self, error: &dyn std::fmt::Display) -> DeliverError {
        match self.web.open() {
            Ok(open) => open.place.retryable(error),
            Err(error) => error,
        }
    }

    /// A statement that answers nothing has answered nothing.
    fn silent(&self, said: &[u8]) -> Result<(), DeliverError> {
        if said.is_empty() {
            return Ok(());
        }
        let said = shown(&String::from_utf8_lossy(said));
        Err(self.retryable(&format!("it should say nothing: {said}")))
    }

    fn headers(&self) -> Result<HeaderMap, DeliverError> {
        let password = self.login.password.as_ref().map(SinkSecret::read);
        let password = password.transpose().map_err(DeliverError::Retryable)?;
        let (user, password) = (
            self.login.user.as_deref(),
            password.as_ref().map(Secret::expose),
        );
        let mut headers = HeaderMap::new();
        for (name, text) in [("x-clickhouse-user", user), ("x-clickhouse-key", password)] {
            let Some(text) = text.filter(|text| !text.is_empty()) else {
                continue;
            };
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| self.retryable(&"user or password cannot be in a header"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }

    /// What the answer to an insert means. Servers of different age give different statuses to one error: its number counts.
    fn judge(&self, answer: Answer) -> Result<Answer, DeliverError> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let said = answer.said();
        let message = |code| DeliverError::Refused {
            code,
            message: said.clone(),
        };
        Err(match error_number(&answer.body) {
            Some(VIOLATED_CONSTRAINT) => message("constraint"),
            Some(number) if INVALID_DATA.contains(&number) => message("invalid_data"),
            // One insert may not touch as many partitions: halves of it may. Its other meaning passes by itself: parts that
            // wait to be merged.
            Some(TOO_MANY_PARTS) if said.contains("partitions for single INSERT") => {
                message("too_many_partitions")
            }
            // A proxy before the server takes no body as large.
            None if answer.status == StatusCode::PAYLOAD_TOO_LARGE => message("http_413"),
            _ => self.retryable(&said),
        })
    }
}

/// The number in `Code: 60. DB::Exception: …`.
fn error_number(body: &[u8]) -> Option<u32> {
    let rest = body.strip_prefix(b"Code: ")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = std::str::from_utf8(rest.get(..digits)?).ok()?;
    digits.parse().ok()
}
