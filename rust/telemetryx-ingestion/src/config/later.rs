//! Settings that are promised and not here yet. One that was accepted and did nothing would be a lie; one that was
//! called unknown would send its user looking for a slip of the pen. When a setting arrives, its line goes.

/// Keys, as paths with `[]` for any element of a list.
const KEYS: [&str; 0] = [];

/// Words, each with the key where it may be chosen some day.
const WORDS: [(&str, &str); 0] = [];

/// Whether this key comes later.
pub(super) fn key(path: &str) -> bool {
    KEYS.contains(&without_indices(path).as_str())
}

/// Whether this word comes later.
pub(super) fn word(path: &str, word: &str) -> bool {
    WORDS.contains(&(without_indices(path).as_str(), word))
}

/// `auth.keys[3].rps` as `auth.keys[].rps`.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            !inside || *c == '['
        })
        .collect()
}
