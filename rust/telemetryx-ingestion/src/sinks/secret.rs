//! A secret of a sink: in the config as `<key>`, or in a file that `<key>_file` names.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::Secret;
use crate::plugin::PluginError;

/// The largest file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SinkSecret {
    /// In the config.
    Given(Secret),
    /// In a file.
    File(PathBuf),
}

impl SinkSecret {
    /// The one of `key` and `<key>_file` that is set, if one is. A file is read once, to see that it can be.
    ///
    /// # Errors
    /// [`PluginError`] if both are set, or the file holds no secret.
    pub(crate) fn of(
        key: &str,
        given: Option<Secret>,
        file: Option<PathBuf>,
    ) -> Result<Option<Self>, PluginError> {
        match (given, file) {
            (Some(_), Some(_)) => Err(PluginError::Settings(format!(
                "`{key}` and `{key}_file` are both set: leave one out"
            ))),
            (Some(secret), None) => Ok(Some(Self::Given(secret))),
            (None, Some(file)) => {
                read(&file)
                    .map_err(|error| PluginError::Unavailable(format!("`{key}_file`: {error}")))?;
                Ok(Some(Self::File(file)))
            }
            (None, None) => Ok(None),
        }
    }

    /// The secret as it is now. Read a file again before each connection, so that a new secret needs no restart.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(crate) fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(file) => read(file),
        }
    }
}

/// The content of a file without the line break at its end.
fn read(path: &Path) -> Result<Secret, String> {
    let mut text = String::new();
    let done = File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string());
    let secret = done.and_then(|bytes| {
        if bytes as u64 > FILE_BYTES_MAX {
            return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
        }
        let line = text.trim_end_matches(['\r', '\n']);
        line.parse().map_err(|error| format!("{error}"))
    });
    secret.map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_each_time_and_without_its_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " a b \r\n").unwrap();
        let secret = SinkSecret::of("password", None, Some(file.path().into())).unwrap();
        assert_eq!(secret.as_ref().unwrap().read().unwrap().expose(), " a b ");
        std::fs::write(file.path(), "new").unwrap();
        assert_eq!(secret.unwrap().read().unwrap().expose(), "new");
    }

    #[test]
    fn both_or_an_empty_or_large_or_missing_file_are_refused_by_name() {
        let refused = |given: Option<&str>, file: &Path| {
            let given = given.map(|text| text.parse().unwrap());
            let refused = SinkSecret::of("password", given, Some(file.into()));
            refused.unwrap_err().to_string()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(refused(Some("x"), file.path()).contains("both set"));
        assert!(refused(None, file.path()).contains("it is empty"));
        std::fs::write(file.path(), "x".repeat(65_536)).unwrap();
        let largest = SinkSecret::of("password", None, Some(file.path().into()));
        assert_eq!(
            largest.unwrap().unwrap().read().unwrap().expose().len(),
            65_536
        );
        std::fs::write(file.path(), "x".repeat(65_537)).unwrap();
        assert!(refused(None, file.path()).contains("it has more than 65536 bytes"));
        let missing = refused(None, Path::new("/no/such"));
        assert!(
            missing.starts_with("`password_file`: /no/such: "),
            "{missing}"
        );
    }
}
