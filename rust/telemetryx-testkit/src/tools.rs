//! Where `scripts/install-servers` puts what it makes itself.

use std::path::{Path, PathBuf};

/// A file or folder of it.
pub(crate) fn tool(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace.join(target).join("tools").join(name)
}
