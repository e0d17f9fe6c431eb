//! Numbers and strings as pickle protocol 0 writes them in lines of text, and its little-endian long integers.

use anyhow::{bail, ensure, Context, Result};

/// A two's complement little-endian integer; none at all is 0.
pub(super) fn long(bytes: &[u8]) -> Result<i64> {
    let negative = bytes.last().is_some_and(|b| *b >= 0x80);
    let fill = if negative { 0xff } else { 0 };
    let mut wide = [fill; 8];
    let (low, high) = bytes.split_at(bytes.len().min(8));
    wide[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(wide);
    ensure!(high.iter().all(|b| *b == fill) && (value < 0) == negative, "an integer needs more than 64 bits");
    Ok(value)
}

/// A decimal integer, with Python 2's `L` at its end.
pub(super) fn integer(line: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(line).context("an integer is not text")?;
    let digits = text.strip_suffix('L').unwrap_or(text);
    digits
        .trim()
        .parse()
        .with_context(|| format!("{:?} is no 64-bit integer", digits.chars().take(40).collect::<String>()))
}

/// A float as Python's `repr` writes it.
pub(super) fn float(line: &[u8]) -> Result<f64> {
    let text = std::str::from_utf8(line).context("a float is not text")?.trim();
    text.parse().with_context(|| format!("{:?} is no float", text.chars().take(40).collect::<String>()))
}

/// The bytes of a quoted Python 2 string.
pub(super) fn quoted(line: &[u8]) -> Result<Vec<u8>> {
    let quote = *line.first().context("a string is empty")?;
    ensure!(line.len() >= 2 && matches!(quote, b'\'' | b'"') && line.last() == Some(&quote), "a string is not quoted");
    let mut rest = line[1..line.len() - 1].iter().copied();
    let mut out = Vec::with_capacity(line.len());
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next().context("a string ends in a backslash")? {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'x' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(), digit());
                let value = high.zip(low).context("a \\x escape needs two digits")?;
                out.push((value.0 * 16 + value.1) as u8);
            }
            same @ (b'\\' | b'\'' | b'"') => out.push(same),
            other => bail!("the escape \\{} is not known", char::from(other)),
        }
    }
    Ok(out)
}

/// Text in Python's `raw-unicode-escape`: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Result<String> {
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let width = match line.get(at + 1) {
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        if line[at] == b'\\' && width > 0 {
            let digits = line.get(at + 2..at + 2 + width).and_then(|d| std::str::from_utf8(d).ok());
            let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).and_then(char::from_u32);
            out.push(code.context("a \\u escape is not a character")?);
            at += 2 + width;
        } else {
            out.push(char::from(line[at]));
            at += 1;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_are_twos_complement() {
        for value in [0, 1, -1, 127, 128, -128, -129, i64::MAX, i64::MIN, 0x1234_5678_9abc] {
            assert_eq!(long(&value.to_le_bytes()).unwrap(), value);
        }
        assert_eq!(long(&[]).unwrap(), 0);
        assert_eq!(long(&[0xff]).unwrap(), -1);
        assert_eq!(long(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap(), 255);
        assert!(long(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0]).is_err());
        assert!(long(&[1; 10]).is_err());
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(quoted(br"'a\x00\n\\\'b'").unwrap(), b"a\0\n\\'b");
        assert!(quoted(b"'a").is_err());
        assert!(quoted(br"'\x1'").is_err());
        assert_eq!(raw_unicode_escape(b"\xe9\\u20acx").unwrap(), "é€x");
        assert!(raw_unicode_escape(b"\\ud800").is_err());
    }

    #[test]
    fn numbers_are_read_as_python_writes_them() {
        assert_eq!(integer(b"12L").unwrap(), 12);
        assert_eq!(float(b"1e-05").unwrap(), 1e-5);
        assert!(integer(b"1.5").is_err());
    }
}
