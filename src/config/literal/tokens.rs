//! Numbers and strings of the Python literal parser.

use super::{LiteralError, Parser, Value};

impl Parser {
    /// An integer, a float or an imaginary number, without sign.
    pub(super) fn number(&mut self) -> Result<Value, LiteralError> {
        let radix = match (self.peek(), self.ahead(1)) {
            (Some('0'), Some('x' | 'X')) => Some(16),
            (Some('0'), Some('o' | 'O')) => Some(8),
            (Some('0'), Some('b' | 'B')) => Some(2),
            _ => None,
        };
        let value = match radix {
            Some(radix) => {
                self.at += 2;
                // `0x_ff` is allowed
                self.eat('_');
                let digits = self.digits(radix)?;
                self.integer(&digits, radix)
            }
            None => self.decimal()?,
        };
        if self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            return Err(self.error("a number that goes on with a letter"));
        }
        Ok(value)
    }

    fn decimal(&mut self) -> Result<Value, LiteralError> {
        let mut text = String::new();
        if self.peek() != Some('.') {
            text = self.digits(10)?;
        }
        let mut is_int = true;
        if self.eat('.') {
            is_int = false;
            text.push('.');
            if self.peek().is_some_and(|c| c.is_ascii_digit()) {
                text += &self.digits(10)?;
            }
        }
        let signs = usize::from(matches!(self.ahead(1), Some('+' | '-')));
        if matches!(self.peek(), Some('e' | 'E')) && self.ahead(1 + signs).is_some_and(|c| c.is_ascii_digit()) {
            is_int = false;
            text.extend(&self.chars[self.at..=self.at + signs]);
            self.at += 1 + signs;
            text += &self.digits(10)?;
        }
        let imaginary = self.eat('j') || self.eat('J');
        if is_int && !imaginary {
            if text.starts_with('0') && text.bytes().any(|b| b != b'0') {
                return Err(self.error("an integer with a leading zero"));
            }
            return Ok(self.integer(&text, 10));
        }
        let value: f64 = text.parse().map_err(|_| self.error("a malformed number"))?;
        Ok(if imaginary { Value::Complex(0.0, value) } else { Value::Float(value) })
    }

    /// Digits with single underscores between them.
    fn digits(&mut self, radix: u32) -> Result<String, LiteralError> {
        let mut out = String::new();
        loop {
            match self.peek() {
                Some(c) if c.is_digit(radix) => out.push(c),
                Some('_') if !out.is_empty() && self.ahead(1).is_some_and(|c| c.is_digit(radix)) => {}
                _ => break,
            }
            self.at += 1;
        }
        if out.is_empty() {
            return Err(self.error("a number without digits"));
        }
        Ok(out)
    }

    fn integer(&mut self, digits: &str, radix: u32) -> Value {
        Value::Int(i64::from_str_radix(digits, radix).unwrap_or_else(|_| {
            self.late_error.get_or_insert(LiteralError::OutOfRange(digits.to_owned()));
            0
        }))
    }

    /// One or more string literals side by side.
    pub(super) fn strings(&mut self) -> Result<Value, LiteralError> {
        let mut value: Option<Value> = None;
        loop {
            let next = self.string()?;
            value = Some(match (value, next) {
                (None, next) => next,
                (Some(Value::Str(a)), Value::Str(b)) => Value::Str(a + &b),
                (Some(Value::Bytes(a)), Value::Bytes(b)) => Value::Bytes([a, b].concat()),
                _ => return Err(self.error("bytes beside a string")),
            });
            self.blanks();
            let prefix = (0..3).find(|n| !self.ahead(*n).is_some_and(|c| c.is_ascii_alphabetic()));
            if !prefix.is_some_and(|n| matches!(self.ahead(n), Some('\'' | '"'))) {
                return value.ok_or_else(|| self.error("no string"));
            }
        }
    }

    fn string(&mut self) -> Result<Value, LiteralError> {
        let mut prefix = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_alphabetic) {
            prefix.push(c.to_ascii_lowercase());
            self.at += 1;
        }
        let (raw, bytes) = match prefix.as_str() {
            "" | "u" => (false, false),
            "r" => (true, false),
            "b" => (false, true),
            "br" | "rb" => (true, true),
            _ => return Err(self.error("a string prefix")),
        };
        let quote = self.peek().filter(|c| matches!(c, '\'' | '"')).ok_or_else(|| self.error("a name"))?;
        self.at += 1;
        let triple = self.peek() == Some(quote) && self.ahead(1) == Some(quote);
        if triple {
            self.at += 2;
        }
        let mut text = String::new();
        loop {
            let c = self.peek().ok_or_else(|| self.error("a string that is not closed"))?;
            self.at += 1;
            match c {
                c if c == quote && !triple => break,
                c if c == quote && self.peek() == Some(quote) && self.ahead(1) == Some(quote) => {
                    self.at += 2;
                    break;
                }
                '\n' if !triple => return Err(self.error("a string that is not closed")),
                '\0' => return Err(self.error("a null character")),
                '\\' if raw => {
                    text.push('\\');
                    let next = self.peek().ok_or_else(|| self.error("a string that is not closed"))?;
                    text.push(next);
                    self.at += 1;
                }
                '\\' => self.escape(bytes, &mut text)?,
                c if bytes && !c.is_ascii() => return Err(self.error("bytes that are not ASCII")),
                c => text.push(c),
            }
        }
        // Every character of a bytes literal is below 256.
        let as_bytes = |text: String| text.chars().map(|c| c as u32 as u8).collect();
        Ok(if bytes { Value::Bytes(as_bytes(text)) } else { Value::Str(text) })
    }

    fn escape(&mut self, bytes: bool, text: &mut String) -> Result<(), LiteralError> {
        let c = self.peek().ok_or_else(|| self.error("a string that is not closed"))?;
        self.at += 1;
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => text.push(c),
            'a' => text.push('\x07'),
            'b' => text.push('\x08'),
            'f' => text.push('\x0c'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'v' => text.push('\x0b'),
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                // a byte keeps the low eight bits
                text.extend(char::from_u32(if bytes { code & 0xff } else { code }));
            }
            'x' => text.push(self.code(2)?),
            'u' if !bytes => text.push(self.code(4)?),
            'U' if !bytes => text.push(self.code(8)?),
            'N' if !bytes => return Err(self.error("a character by name")),
            other => text.extend(['\\', other]),
        }
        Ok(())
    }

    /// The character whose code is written in exactly `n` hexadecimal digits.
    fn code(&mut self, n: usize) -> Result<char, LiteralError> {
        let digits: String = self.chars[self.at..].iter().take(n).filter(|c| c.is_ascii_hexdigit()).collect();
        if digits.len() != n {
            return Err(self.error("a truncated escape"));
        }
        self.at += n;
        u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).ok_or_else(|| self.error("a surrogate"))
    }
}
