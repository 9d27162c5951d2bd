//! Hexadecimal digits.

/// The bytes that pairs of hexadecimal digits, of either case, stand for.
pub(crate) fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let (pairs, []) = digits.as_chunks() else {
        return None;
    };
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn pairs_of_digits_of_either_case_are_bytes_and_nothing_else_is() {
        assert_eq!(decode(b""), Some(vec![]));
        assert_eq!(decode(b"00fFA5"), Some(vec![0, 255, 0xa5]));
        for wrong in ["0", "0g", "abc", "0x", "+1", "ä"] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
