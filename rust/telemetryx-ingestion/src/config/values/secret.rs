//! Texts that must never be shown.

use std::{fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::ValueError;
use crate::hex;

/// What is shown in place of a secret. It is no valid secret, so a masked config cannot be run by mistake.
pub const MASK: &str = "***";

/// A text that `Debug`, logs and the printed config show as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The text itself: for the one comparison or header that needs it, and for nothing that is shown or kept.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "" => Err(ValueError::new("it is empty")),
            MASK => Err(ValueError::new("`***` is a mask, not the secret itself")),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "secret" })
    }
}

/// The SHA-256 of an API key. The key itself is never in the config, so a stolen file opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

/// The SHA-256 of an empty text: what `sha256sum` prints for a key that was never set.
const OF_NOTHING: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

impl KeyHash {
    /// How a hash is written, for messages and the reference.
    pub const FORM: &str = "64 hexadecimal digits, as printed by: printf %s \"$KEY\" | sha256sum";

    /// The 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for KeyHash {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == MASK {
            return Err(ValueError::new("`***` is a mask, not the hash itself"));
        }
        let bytes = hex::decode(text.as_bytes()).unwrap_or_default();
        match <[u8; 32]>::try_from(bytes) {
            Ok(hash) if hash == OF_NOTHING => Err(ValueError::new(
                "it is the SHA-256 of an empty text: was $KEY not set?",
            )),
            Ok(hash) => Ok(Self(hash)),
            // The value is not repeated: it may be the key itself, put here by mistake.
            Err(_) => Err(ValueError::new("it is not the SHA-256 of a key")),
        }
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for KeyHash {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeyHash".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "sha256" })
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyHash, Secret};

    #[test]
    fn a_secret_is_never_shown() {
        let secret: Secret = "hunter2".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn the_mask_and_nothing_are_no_secrets() {
        assert!("***".parse::<Secret>().is_err());
        assert!("".parse::<Secret>().is_err());
        assert!("***".parse::<KeyHash>().is_err());
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits_in_either_case() {
        let digits = "00ff".repeat(16);
        let hash: KeyHash = digits.parse().unwrap();
        assert_eq!(hash.as_bytes()[..4], [0, 255, 0, 255]);
        assert_eq!(digits.to_uppercase().parse::<KeyHash>().unwrap(), hash);
        assert_eq!(format!("{hash:?}"), "***");
    }

    #[test]
    fn the_hash_of_an_unset_variable_opens_no_door() {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(
            hash.parse::<KeyHash>()
                .unwrap_err()
                .to_string()
                .contains("empty text")
        );
    }

    #[test]
    fn a_key_in_place_of_its_hash_is_refused_without_repeating_it() {
        for text in [
            "my-secret-key".to_owned(),
            "0".repeat(63),
            "0".repeat(65),
            "0".repeat(63) + "é",
        ] {
            let error = text.parse::<KeyHash>().unwrap_err().to_string();
            assert!(!error.contains(&text), "{error}");
        }
    }
}
