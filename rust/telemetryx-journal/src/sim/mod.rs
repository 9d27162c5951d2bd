//! A disk that loses.
