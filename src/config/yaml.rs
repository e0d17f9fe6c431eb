//! YAML 1.1 as PyYAML's `safe_load` and `safe_dump` read and write it, over the events of `saphyr-parser`.
//!
//! The parser gives scalars with their style and tag; which of them are booleans, numbers, dates or strings is decided
//! here, by PyYAML's rules (`yes` is a boolean, `0100` is 64, `1:30` is 90, `2e-3` is a string).

mod construct;
mod dump;
mod resolve;

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::error::{ConfigError, ErrorKind};
use super::Value;

pub(super) use dump::dump;

/// Documents nested deeper are refused.
const MAX_DEPTH: usize = 100;

/// A node of the document before its type is known.
struct Node {
    tag: Option<String>,
    line: usize,
    content: Content,
}

enum Content {
    Scalar { text: String, plain: bool },
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<(Rc<Node>, Rc<Node>)>),
}

/// Reads a text with one YAML document; an empty text is `None`.
///
/// # Errors
/// [`ErrorKind::YamlSyntax`] where PyYAML raises a `YAMLError`, [`ErrorKind::Other`] where a scalar with a tag cannot
/// be converted.
pub(super) fn load(text: &str) -> Result<Value, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(c) = text.chars().find(|c| !is_printable(*c)) {
        return Err(ConfigError::new(ErrorKind::YamlSyntax, format!("the character {c:?} is not allowed in YAML")));
    }
    let open_end = (!text.ends_with('\n')).then(|| text.chars().count());
    let mut composer = Composer { parser: Parser::new_from_str(text), anchors: HashMap::new(), open_end };
    match composer.document()? {
        Some(node) => construct::Constructor::default().value(&node),
        None => Ok(Value::None),
    }
}

/// The characters that PyYAML's reader accepts.
fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..)
}

fn syntax(line: usize, message: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(ErrorKind::YamlSyntax, format!("line {line}: {message}"))
}

fn scan_error(error: ScanError) -> ConfigError {
    let at = error.marker();
    syntax(at.line(), format_args!("column {}: {}", at.col() + 1, error.info()))
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Rc<Node>>,
    /// The length in characters of a text whose last line has no line break.
    open_end: Option<usize>,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.parser.next_event() {
            Some(event) => event.map_err(scan_error),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Rc<Node>>, ConfigError> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamStart | Event::Nothing | Event::DocumentEnd, _) => {}
                (Event::DocumentStart(_), span) if root.is_some() => {
                    return Err(syntax(span.start.line(), "a second document; one is expected"));
                }
                (Event::DocumentStart(_), _) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                (Event::StreamEnd, _) => return Ok(root),
                (_, span) => return Err(syntax(span.start.line(), "content outside of a document")),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Rc<Node>, ConfigError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(syntax(line, format_args!("nested more than {MAX_DEPTH} levels deep")));
        }
        let full_tag = |tag: Option<std::borrow::Cow<'a, Tag>>| tag.map(|t| format!("{}{}", t.handle, t.suffix));
        let (anchor, tag, content) = match event {
            Event::Alias(id) => {
                let known = self.anchors.get(&id).cloned();
                return known.ok_or_else(|| syntax(line, "an alias of something that is not complete"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let mut text = text.into_owned();
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                // The parser adds the line break that is missing there, PyYAML does not.
                if is_block && self.open_end.is_some_and(|end| span.end.index() >= end) && text.ends_with('\n') {
                    text.pop();
                }
                (anchor, full_tag(tag), Content::Scalar { text, plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, full_tag(tag), Content::Sequence(items))
            }
            Event::MappingStart(anchor, tag) => {
                let mut pairs = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        break;
                    }
                    let key = self.node(event, span, depth + 1)?;
                    let (event, span) = self.next()?;
                    pairs.push((key, self.node(event, span, depth + 1)?));
                }
                (anchor, full_tag(tag), Content::Mapping(pairs))
            }
            _ => return Err(syntax(line, "the document ends too early")),
        };
        let node = Rc::new(Node { tag, line, content });
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests;
