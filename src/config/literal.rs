//! Python literals, as `ast.literal_eval` reads them. yacs reads every string value this way first: `(1, 2)`, `1e-3`,
//! `None` and `'x'` change type, anything that is no literal stays a string.

use thiserror::Error;

use super::Value;

/// Brackets nested deeper are no literal (CPython's limit).
const MAX_DEPTH: usize = 200;

/// Why a text has no literal value.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LiteralError {
    /// The text is not a Python literal: yacs keeps it as a string.
    #[error("not a Python literal: {what} at character {at}")]
    NotALiteral {
        /// What stands in the way.
        what: &'static str,
        /// After how many characters.
        at: usize,
    },
    /// A key of a dict or an item of a set that Python cannot hash.
    #[error("unhashable type: '{0}'")]
    Unhashable(&'static str),
    /// An integer beyond 64 bits.
    #[error("the integer {0} does not fit in 64 bits")]
    OutOfRange(String),
}

/// Reads a whole text.
///
/// # Errors
/// [`LiteralError::NotALiteral`] where Python raises `ValueError` or `SyntaxError`. `\N{name}` escapes and surrogates
/// are counted among these.
pub fn parse(text: &str) -> Result<Value, LiteralError> {
    let text = text.trim_start_matches([' ', '\t']);
    let mut parser = Parser::new(text);
    parser.blank_lines()?;
    let value = parser.expression_list()?;
    parser.line_end()?;
    parser.blank_lines()?;
    if parser.peek().is_some() {
        return Err(parser.error("text after the value"));
    }
    parser.finish(value)
}

/// Reads the literal that a Python statement's right side consists of and leaves what follows its line alone.
pub(super) fn parse_statement(text: &str) -> Result<Value, LiteralError> {
    let mut parser = Parser::new(text);
    let value = parser.expression_list()?;
    parser.line_end()?;
    parser.finish(value)
}

/// How an expression is written; signs and sums take only some forms.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Constant,
    Signed,
    Other,
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    /// The first error that Python finds only after the whole text was read.
    late_error: Option<LiteralError>,
}

impl Parser {
    fn new(text: &str) -> Self {
        let chars = text.replace("\r\n", "\n").replace('\r', "\n").chars().collect();
        Self { chars, at: 0, depth: 0, late_error: None }
    }

    fn finish(self, value: Value) -> Result<Value, LiteralError> {
        self.late_error.map_or(Ok(value), Err)
    }

    fn error(&self, what: &'static str) -> LiteralError {
        LiteralError::NotALiteral { what, at: self.at }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn ahead(&self, n: usize) -> Option<char> {
        self.chars.get(self.at + n).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn comment(&mut self) {
        if self.peek() == Some('#') {
            while self.peek().is_some_and(|c| c != '\n') {
                self.at += 1;
            }
        }
    }

    /// Skips blanks; within brackets also comments and line ends.
    fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\x0c') => self.at += 1,
                Some('\\') if self.ahead(1) == Some('\n') => self.at += 2,
                Some('\n') if self.depth > 0 => self.at += 1,
                Some('#') if self.depth > 0 => self.comment(),
                _ => return,
            }
        }
    }

    /// Skips lines that hold nothing but blanks and comments. A value may not be indented, and neither may the end.
    fn blank_lines(&mut self) -> Result<(), LiteralError> {
        loop {
            let start = self.at;
            self.blanks();
            let after_blanks = self.at;
            self.comment();
            let only_blanks = after_blanks > start && self.at == after_blanks;
            match self.peek() {
                Some('\n') => self.at += 1,
                _ if only_blanks => return Err(self.error("an indented line")),
                _ => return Ok(()),
            }
        }
    }

    /// The end of a line, after an optional comment.
    fn line_end(&mut self) -> Result<(), LiteralError> {
        self.blanks();
        self.comment();
        match self.peek() {
            None => Ok(()),
            Some('\n') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.error("text after the value")),
        }
    }

    /// One expression, or a tuple without brackets.
    fn expression_list(&mut self) -> Result<Value, LiteralError> {
        let (value, _) = self.expression()?;
        self.blanks();
        if self.peek() != Some(',') {
            return Ok(value);
        }
        let mut items = vec![value];
        while self.eat(',') {
            self.blanks();
            match self.peek() {
                None | Some('\n' | '#') => break,
                _ => items.push(self.expression()?.0),
            }
            self.blanks();
        }
        Ok(Value::Tuple(items))
    }

    /// A signed atom, or the sum of a real and an imaginary number.
    fn expression(&mut self) -> Result<(Value, Form), LiteralError> {
        let (mut left, mut form) = self.signed()?;
        loop {
            self.blanks();
            let sign = match self.peek() {
                Some('+') => 1.0,
                Some('-') => -1.0,
                _ => return Ok((left, form)),
            };
            self.at += 1;
            let (right, right_form) = self.signed()?;
            let real = match left {
                Value::Int(real) if form != Form::Other => real as f64,
                Value::Float(real) if form != Form::Other => real,
                _ => return Err(self.error("arithmetic")),
            };
            match right {
                Value::Complex(re, im) if right_form == Form::Constant => {
                    left = Value::Complex(real + sign * re, sign * im);
                    form = Form::Other;
                }
                _ => return Err(self.error("arithmetic")),
            }
        }
    }

    fn signed(&mut self) -> Result<(Value, Form), LiteralError> {
        self.blanks();
        let negative = match self.peek() {
            Some('-') => true,
            Some('+') => false,
            _ => return self.atom(),
        };
        self.at += 1;
        // i64::MIN is written as a minus and a number that does not fit.
        let start = self.at;
        let late_error = self.late_error.clone();
        self.blanks();
        let (value, form) = self.atom()?;
        if form != Form::Constant {
            return Err(self.error("a sign"));
        }
        let value = match value {
            Value::Int(value) if negative => {
                if self.late_error != late_error && self.digits_between(start) == i64::MIN.unsigned_abs().to_string() {
                    self.late_error = late_error;
                    Value::Int(i64::MIN)
                } else {
                    Value::Int(-value)
                }
            }
            Value::Float(value) if negative => Value::Float(-value),
            Value::Complex(re, im) if negative => Value::Complex(-re, -im),
            value @ (Value::Int(_) | Value::Float(_) | Value::Complex(..)) => value,
            _ => return Err(self.error("a sign")),
        };
        Ok((value, Form::Signed))
    }

    fn digits_between(&self, start: usize) -> String {
        self.chars[start..self.at].iter().filter(|c| c.is_ascii_digit()).collect()
    }

    fn atom(&mut self) -> Result<(Value, Form), LiteralError> {
        self.blanks();
        match self.peek() {
            Some('(') => return self.parenthesised(),
            Some('[') => Ok(Value::List(self.bracketed(']', Self::item)?)),
            Some('{') => self.dict_or_set(),
            Some('\'' | '"') => self.strings(),
            Some('0'..='9') => self.number(),
            Some('.') if self.ahead(1).is_some_and(|c| c.is_ascii_digit()) => self.number(),
            Some('.') if self.ahead(1) == Some('.') && self.ahead(2) == Some('.') => {
                self.at += 3;
                Ok(Value::Ellipsis)
            }
            Some(c) if c.is_alphabetic() || c == '_' => self.word(),
            _ => Err(self.error("an unexpected character")),
        }
        .map(|value| (value, Form::Constant))
    }

    /// Brackets around the items that `item` reads, separated by commas, with an optional comma at the end.
    fn bracketed<T>(
        &mut self,
        close: char,
        item: impl Fn(&mut Self) -> Result<T, LiteralError>,
    ) -> Result<Vec<T>, LiteralError> {
        self.open()?;
        let mut items = Vec::new();
        loop {
            self.blanks();
            if self.peek() == Some(close) {
                break;
            }
            items.push(item(self)?);
            self.blanks();
            if !self.eat(',') {
                break;
            }
        }
        self.close(close)?;
        Ok(items)
    }

    fn open(&mut self) -> Result<(), LiteralError> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("too many brackets"));
        }
        Ok(())
    }

    fn close(&mut self, close: char) -> Result<(), LiteralError> {
        self.blanks();
        if !self.eat(close) {
            return Err(self.error("a bracket that is not closed"));
        }
        self.depth -= 1;
        Ok(())
    }

    fn item(&mut self) -> Result<Value, LiteralError> {
        Ok(self.expression()?.0)
    }

    /// `()`, `(x)` or a tuple.
    fn parenthesised(&mut self) -> Result<(Value, Form), LiteralError> {
        self.open()?;
        self.blanks();
        if self.peek() == Some(')') {
            self.close(')')?;
            return Ok((Value::Tuple(Vec::new()), Form::Other));
        }
        let (first, form) = self.expression()?;
        self.blanks();
        if self.peek() != Some(',') {
            self.close(')')?;
            return Ok((first, form));
        }
        let mut items = vec![first];
        while self.eat(',') {
            self.blanks();
            if self.peek() == Some(')') {
                break;
            }
            items.push(self.item()?);
            self.blanks();
        }
        self.close(')')?;
        Ok((Value::Tuple(items), Form::Other))
    }

    fn dict_or_set(&mut self) -> Result<Value, LiteralError> {
        let items = self.bracketed('}', |p| {
            let key = p.item()?;
            p.blanks();
            let value = if p.eat(':') { Some(p.item()?) } else { None };
            Ok((key, value))
        })?;
        if let Some((key, _)) = items.iter().find(|(key, _)| !key.is_hashable()) {
            self.late_error.get_or_insert(LiteralError::Unhashable(key.type_name()));
        }
        if items.iter().all(|(_, value)| value.is_some()) {
            let mut pairs: Vec<(Value, Value)> = Vec::new();
            for (key, value) in items.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                match pairs.iter_mut().find(|(known, _)| *known == key) {
                    Some(pair) => pair.1 = value,
                    None => pairs.push((key, value)),
                }
            }
            return Ok(Value::Dict(pairs));
        }
        if items.iter().any(|(_, value)| value.is_some()) {
            return Err(self.error("a dict with an item that has no value"));
        }
        let mut set: Vec<Value> = Vec::new();
        for (item, _) in items {
            if !set.contains(&item) {
                set.push(item);
            }
        }
        Ok(Value::Set(set))
    }

    /// `True`, `False`, `None`, `set()`, or the prefix of a string.
    fn word(&mut self) -> Result<Value, LiteralError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        match word.as_str() {
            "True" => Ok(Value::Bool(true)),
            "False" => Ok(Value::Bool(false)),
            "None" => Ok(Value::None),
            "set" => {
                self.blanks();
                if self.peek() != Some('(') {
                    return Err(self.error("a name"));
                }
                self.open()?;
                self.close(')')?;
                Ok(Value::Set(Vec::new()))
            }
            _ if matches!(self.peek(), Some('\'' | '"')) => {
                self.at = start;
                self.strings()
            }
            _ => Err(self.error("a name")),
        }
    }
}

#[cfg(test)]
mod tests;
mod tokens;
