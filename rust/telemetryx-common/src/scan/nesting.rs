//! Which brackets are open: one bit each, 64 of them without allocating.

/// The open brackets, innermost last. Deeper than 64, whole words go to a vector: at most an eighth of the input.
pub(super) struct Nesting {
    word: u64,
    depth: usize,
    outer: Vec<u64>,
}

impl Nesting {
    pub(super) fn new() -> Self {
        Nesting {
            word: 0,
            depth: 0,
            outer: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Whether the innermost bracket is an object's. There must be one.
    #[inline]
    pub(super) fn in_object(&self) -> bool {
        self.word & 1 == 1
    }

    #[inline]
    pub(super) fn open(&mut self, object: bool) {
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.outer.push(self.word);
        }
        self.word = self.word << 1 | u64::from(object);
        self.depth += 1;
    }

    #[inline]
    pub(super) fn close(&mut self) {
        self.depth -= 1;
        self.word >>= 1;
        if self.depth.is_multiple_of(64)
            && let Some(word) = self.outer.pop()
        {
            self.word = word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_close_in_the_order_they_opened_at_any_depth() {
        let mut nesting = Nesting::new();
        let kinds: Vec<bool> = (0..1_000).map(|i| i % 3 == 0 || i % 7 == 0).collect();
        for kind in &kinds {
            nesting.open(*kind);
        }
        for kind in kinds.iter().rev() {
            assert_eq!(nesting.in_object(), *kind);
            nesting.close();
        }
        assert_eq!(nesting.depth(), 0);
    }
}
