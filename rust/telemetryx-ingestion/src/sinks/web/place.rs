//! Where a server is, and who we are to it.

use reqwest::Url;

use crate::sinks::DeliverError;

/// Where the server is.
#[derive(Debug, Clone)]
pub(in crate::sinks) struct Place {
    /// Without user and password.
    pub(in crate::sinks) url: Url,
    /// Those of the URL; sent as `Authorization`.
    pub(super) login: Option<(String, String)>,
    pub(in crate::sinks) host: String,
    pub(in crate::sinks) port: u16,
}

impl Place {
    pub(super) fn of(text: &str) -> Result<Self, String> {
        // The parser's words do not repeat the URL, which may hold a password.
        let mut url = Url::parse(text).map_err(|error| format!("`url`: {error}"))?;
        let port = url.port_or_known_default();
        let (Some(host), Some(port), "http" | "https") = (url.host_str(), port, url.scheme())
        else {
            return Err("`url` must be http://host[:port]/path, or https:// for TLS".to_owned());
        };
        let host = host.to_owned();
        let decoded = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned())
        };
        let password = url.password().unwrap_or_default();
        let login = match (decoded(url.username()), decoded(password)) {
            (Ok(user), Ok(password)) if !user.is_empty() || !password.is_empty() => {
                Some((user, password))
            }
            (Ok(_), Ok(_)) => None,
            _ => return Err("`url`: user or password is not UTF-8".to_owned()),
        };
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| "`url` cannot have a user".to_owned())?;
        url.set_fragment(None);
        Ok(Self {
            url,
            login,
            host,
            port,
        })
    }

    /// An error with the server's name. The path is not shown: it may be what makes a URL secret.
    pub(in crate::sinks) fn retryable(&self, error: &dyn std::fmt::Display) -> DeliverError {
        DeliverError::Retryable(format!("{}:{}: {error}", self.host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_without_what_is_secret() {
        let place = Place::of("https://me:pass%40word@example.com/hooks/T0/secret?x=1").unwrap();
        assert_eq!(
            place.url.as_str(),
            "https://example.com/hooks/T0/secret?x=1"
        );
        assert_eq!(place.login, Some(("me".to_owned(), "pass@word".to_owned())));
        let error = place.retryable(&"down").to_string();
        assert_eq!(error, "example.com:443: down");
        for wrong in ["ftp://h", "h:80", "http://", "/x", "http://h:99999"] {
            let error = Place::of(wrong).unwrap_err();
            assert!(error.contains("`url`"), "{error}");
        }
    }
}
