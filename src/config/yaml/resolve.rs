//! Which type a plain scalar has: the regular expressions of PyYAML's `resolver.py`, written as small matchers.

/// The types that a plain scalar can be resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Float,
    Int,
    Merge,
    Null,
    Timestamp,
    Value,
    Str,
}

pub(super) fn resolve(text: &str) -> Scalar {
    match text {
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false" | "False" | "FALSE" | "on"
        | "On" | "ON" | "off" | "Off" | "OFF" => Scalar::Bool,
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "<<" => Scalar::Merge,
        "=" => Scalar::Value,
        _ if is_float(text) => Scalar::Float,
        _ if is_int(text) => Scalar::Int,
        _ if is_timestamp(text) => Scalar::Timestamp,
        _ => Scalar::Str,
    }
}

/// A position in a text; every method moves over what it names and says whether it was there.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn one(&mut self, accept: impl Fn(u8) -> bool) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if accept(*first) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// At least `min`, at most `max` bytes.
    fn some(&mut self, min: usize, max: usize, accept: impl Fn(u8) -> bool) -> bool {
        let mut n = 0;
        while n < max && self.one(&accept) {
            n += 1;
        }
        n >= min
    }

    fn any(&mut self, accept: impl Fn(u8) -> bool) -> bool {
        self.some(0, usize::MAX, accept)
    }

    fn byte(&mut self, byte: u8) -> bool {
        self.one(|b| b == byte)
    }

    fn sign(&mut self) -> bool {
        self.one(|b| b == b'-' || b == b'+')
    }

    fn digit(&mut self) -> bool {
        self.one(|b| b.is_ascii_digit())
    }

    /// `[0-9][0-9_]*`
    fn number(&mut self) -> bool {
        self.digit() && self.any(|b| b.is_ascii_digit() || b == b'_')
    }

    /// `([eE][-+][0-9]+)?`
    fn exponent(&mut self) -> bool {
        let before = *self;
        if self.one(|b| b == b'e' || b == b'E') && self.sign() && self.some(1, usize::MAX, |b| b.is_ascii_digit()) {
            return true;
        }
        *self = before;
        true
    }

    /// `(:[0-5]?[0-9])+`
    fn sexagesimal(&mut self) -> bool {
        let mut parts = 0;
        while self.byte(b':') {
            let mut two = *self;
            if two.one(|b| (b'0'..=b'5').contains(&b)) && two.digit() {
                *self = two;
            } else if !self.digit() {
                return false;
            }
            parts += 1;
        }
        parts > 0
    }

    fn end(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_float(text: &str) -> bool {
    let digits = |b: u8| b.is_ascii_digit() || b == b'_';
    let start = Cursor(text.as_bytes());
    let mut signed = start;
    signed.sign();
    let with_point = |mut c: Cursor| c.number() && c.byte(b'.') && c.any(digits) && c.exponent() && c.end();
    let from_point = |mut c: Cursor| c.byte(b'.') && c.number() && c.exponent() && c.end();
    let sexagesimal = |mut c: Cursor| c.number() && c.sexagesimal() && c.byte(b'.') && c.any(digits) && c.end();
    with_point(signed)
        || from_point(start)
        || sexagesimal(signed)
        || matches!(signed.0, b".inf" | b".Inf" | b".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
}

fn is_int(text: &str) -> bool {
    let mut signed = Cursor(text.as_bytes());
    signed.sign();
    let prefixed = |mut c: Cursor, letter: u8, accept: fn(u8) -> bool| {
        c.byte(b'0') && c.byte(letter) && c.some(1, usize::MAX, |b| accept(b) || b == b'_') && c.end()
    };
    let octal =
        |mut c: Cursor| c.byte(b'0') && c.some(1, usize::MAX, |b| (b'0'..=b'7').contains(&b) || b == b'_') && c.end();
    let decimal = |mut c: Cursor| signed.0 == b"0" || (!c.byte(b'0') && c.number() && c.end());
    let sexagesimal = |mut c: Cursor| !c.byte(b'0') && c.number() && c.sexagesimal() && c.end();
    prefixed(signed, b'b', |b| b == b'0' || b == b'1')
        || octal(signed)
        || decimal(signed)
        || prefixed(signed, b'x', |b| b.is_ascii_hexdigit())
        || sexagesimal(signed)
}

fn is_timestamp(text: &str) -> bool {
    let blank = |b: u8| b == b' ' || b == b'\t';
    let start = Cursor(text.as_bytes());
    let digits = |c: &mut Cursor, min: usize, max: usize| c.some(min, max, |b| b.is_ascii_digit());
    let mut day = start;
    let year_month = digits(&mut day, 4, 4) && day.byte(b'-') && digits(&mut day, 2, 2) && day.byte(b'-');
    if year_month && digits(&mut day, 2, 2) && day.end() {
        return true;
    }
    let mut c = start;
    let date = digits(&mut c, 4, 4) && c.byte(b'-') && digits(&mut c, 1, 2) && c.byte(b'-') && digits(&mut c, 1, 2);
    let separated = date && (c.one(|b| b == b'T' || b == b't') || c.some(1, usize::MAX, blank));
    let time = separated && digits(&mut c, 1, 2) && c.byte(b':') && digits(&mut c, 2, 2) && c.byte(b':');
    if !(time && digits(&mut c, 2, 2)) {
        return false;
    }
    if c.byte(b'.') {
        c.any(|b| b.is_ascii_digit());
    }
    if c.end() {
        return true;
    }
    c.any(blank);
    let zone = c.byte(b'Z') || (c.sign() && digits(&mut c, 1, 2) && (!c.byte(b':') || digits(&mut c, 2, 2)));
    zone && c.end()
}
