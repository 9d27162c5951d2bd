//! The end of a string: the next quote, backslash or control character, many bytes a step.
//!
//! Most strings of an event are shorter than 16 bytes, so what counts is that the first step is cheap: inlined, without
//! a call or a look at what the processor can do, as `memchr` would need.

/// The first place from `pos` on with a quote, a backslash or a control character; else the end.
#[inline(always)]
pub(crate) fn find_special(bytes: &[u8], mut pos: usize) -> usize {
    while let Some(chunk) = bytes.get(pos..).and_then(|rest| rest.first_chunk()) {
        if let Some(place) = first_special(chunk) {
            return pos + place;
        }
        pos += chunk.len();
    }
    find_special_in_tail(bytes, pos)
}

/// The same, byte by byte. Out of line: only the last few bytes of a body come here.
#[inline(never)]
fn find_special_in_tail(bytes: &[u8], pos: usize) -> usize {
    let tail = bytes.get(pos..).unwrap_or_default();
    let found = tail
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    pos + found.unwrap_or(tail.len())
}

/// Subtracting one from a zero byte, or 0x20 from a smaller one, borrows into its highest bit. A borrow can spill into
/// higher bytes only, so the lowest bit set is always a true one.
#[inline(always)]
fn first_special(chunk: &[u8; 8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let word = u64::from_le_bytes(*chunk);
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let found =
        (quote.wrapping_sub(ONES) | backslash.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20))
            & !word
            & HIGHS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_is_found_as_byte_by_byte() {
        for byte in 0..=255 {
            for place in 0..40 {
                let mut text = vec![0xc3; 40];
                text[place] = byte;
                assert_eq!(find_special(&text, 0), find_special_in_tail(&text, 0));
            }
        }
    }

    #[test]
    fn a_word_is_searched_as_byte_by_byte() {
        for (a, b) in (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b))) {
            let chunk = [b'x', a, b, 0xff, b, a, 0x80, 0x1f];
            let expected = find_special_in_tail(&chunk, 0);
            assert_eq!(first_special(&chunk), Some(expected));
        }
    }
}
