//! Rust source as tokens: enough to see imports, functions, attributes and what is a test. Comments
//! are gone and a literal is one token, so a rule never stumbles over a word in a text.

use std::collections::BTreeMap;

/// A word, a number, `::`, a literal (as [`LITERAL`]) or one character of punctuation.
#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    pub line: usize,
    /// In a test, or in something that only tests build.
    pub test: bool,
}

/// What stands for a string or a character.
pub const LITERAL: &str = "\"";

/// One file of Rust.
pub struct Source {
    /// Relative to the checkout, with `/`.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
    /// How many characters of a line are within literals.
    pub literal: BTreeMap<usize, usize>,
    /// `#[cfg(test)] mod NAME;`: the file is elsewhere.
    pub test_modules: Vec<String>,
}

/// A function with a body, from its `fn` to its last brace.
pub struct Function {
    pub name: String,
    pub first: usize,
    pub last: usize,
    /// Where its `fn` stands.
    pub token: usize,
}

/// A path of two names or more, in an import or anywhere else; groups are spelled out.
pub struct Named {
    pub names: Vec<String>,
    pub line: usize,
    pub test: bool,
    /// The modules within the file that it stands in.
    pub within: Vec<String>,
}

impl Source {
    /// Reads one file's text.
    pub fn new(path: &str, text: &str) -> Self {
        let (tokens, literal) = lex(text);
        let mut source = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
            literal,
            test_modules: Vec::new(),
        };
        if path.starts_with("tests/") {
            source.only_tests();
        } else {
            source.mark_tests();
        }
        source
    }

    /// Everything in this file is built for tests only.
    pub fn only_tests(&mut self) {
        self.tokens.iter_mut().for_each(|token| token.test = true);
    }

    /// The text of a token, or nothing behind the last one.
    pub fn at(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |token| &token.text)
    }

    /// Whether these tokens stand at `index`.
    pub fn follows(&self, index: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(more, text)| self.at(index + more) == *text)
    }

    fn mark_tests(&mut self) {
        let mut index = 0;
        while index < self.tokens.len() {
            if !self.is_test_attribute(index) {
                index += 1;
                continue;
            }
            let mut item = self.attribute_end(index);
            while self.at(item) == "#" {
                item = self.attribute_end(item);
            }
            let end = self.item_end(item);
            if self.at(item) == "mod" && self.at(end) == ";" {
                self.test_modules.push(self.at(item + 1).to_owned());
            }
            self.tokens.iter_mut().take(end + 1).skip(index).for_each(|token| token.test = true);
            index = end + 1;
        }
    }

    /// `#[test]`, `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`.
    pub fn is_test_attribute(&self, index: usize) -> bool {
        if !self.follows(index, &["#", "["]) {
            return false;
        }
        let end = self.attribute_end(index);
        let mut inside = (index + 2..end).map(|at| self.at(at));
        match self.at(index + 2) {
            "cfg" => inside.clone().any(|t| t == "test") && !inside.any(|t| t == "not"),
            "test" => true,
            _ => self.at(index + 3) == "::" && self.at(index + 4) == "test",
        }
    }

    /// Behind the `]` of the attribute that begins at `index`.
    pub fn attribute_end(&self, index: usize) -> usize {
        let open = (index..index + 3).find(|at| self.at(*at) == "[").unwrap_or(index);
        self.close(open) + 1
    }

    /// The `;` or the `}` that ends the item that begins at `index`.
    fn item_end(&self, mut index: usize) -> usize {
        while index < self.tokens.len() {
            match self.at(index) {
                ";" => return index,
                "{" => return self.close(index),
                "(" | "[" => index = self.close(index),
                _ => {}
            }
            index += 1;
        }
        index
    }

    /// Where the bracket at `open` is closed again, or the end of the file.
    pub fn close(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return index;
            }
        }
        self.tokens.len()
    }

    /// Every function that has a body.
    pub fn functions(&self) -> Vec<Function> {
        let is_name = |text: &str| text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let mut found = Vec::new();
        for (index, token) in self.tokens.iter().enumerate() {
            if token.text != "fn" || !is_name(self.at(index + 1)) {
                continue;
            }
            if let Some(last) = self.tokens.get(self.item_end(index)).filter(|t| t.text == "}") {
                let name = self.at(index + 1).to_owned();
                found.push(Function { name, first: token.line, last: last.line, token: index });
            }
        }
        found
    }

    /// Whether a function is a test itself: one of the attributes before it says so.
    pub fn is_test(&self, function: &Function) -> bool {
        let from = function.token.saturating_sub(40);
        (from..function.token).any(|at| {
            // Attributes stand right before the item: nothing may end in between.
            self.is_test_attribute(at)
                && self.at(at + 2) != "cfg"
                && !(at..function.token).any(|t| matches!(self.at(t), "}" | ";"))
        })
    }

    /// Every path of two names or more.
    pub fn paths(&self) -> Vec<Named> {
        let modules = self.modules();
        let mut found = Vec::new();
        let mut index = 0;
        while index < self.tokens.len() {
            if !is_word(self.at(index)) {
                index += 1;
                continue;
            }
            let within = modules
                .iter()
                .filter(|(_, open, close)| (*open..*close).contains(&index))
                .map(|(name, ..)| name.clone())
                .collect::<Vec<_>>();
            let mut paths = Vec::new();
            index = self.path(index, &[], &mut paths);
            found.extend(paths.into_iter().filter(|(names, _)| names.len() > 1).map(
                |(names, at)| {
                    let token = self.tokens.get(at);
                    let line = token.map_or(0, |token| token.line);
                    let test = token.is_some_and(|token| token.test);
                    Named { names, line, test, within: within.clone() }
                },
            ));
        }
        found
    }

    /// Reads one path, and what its groups add; gives back where it ends.
    fn path(&self, mut at: usize, before: &[String], out: &mut Vec<(Vec<String>, usize)>) -> usize {
        let mut names = before.to_vec();
        loop {
            match self.at(at) {
                "{" if !names.is_empty() => {
                    let close = self.close(at);
                    at += 1;
                    while at < close {
                        at = match self.at(at) {
                            "," => at + 1,
                            "as" => at + 2,
                            _ => self.path(at, &names, out).max(at + 1),
                        };
                    }
                    return close + 1;
                }
                text if is_word(text) || text == "*" => names.push(text.to_owned()),
                _ => {
                    out.push((names, at - 1));
                    return at;
                }
            }
            at += 1;
            if self.at(at) != "::" {
                out.push((names, at - 1));
                return at;
            }
            at += 1;
        }
    }

    /// `mod NAME { … }`: name, where it opens, where it closes; the outer ones first.
    fn modules(&self) -> Vec<(String, usize, usize)> {
        let opens = |at: &usize| self.at(*at) == "mod" && self.at(at + 2) == "{";
        let module = |at: usize| (self.at(at + 1).to_owned(), at + 2, self.close(at + 2));
        (0..self.tokens.len()).filter(opens).map(module).collect()
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn lex(text: &str) -> (Vec<Token>, BTreeMap<usize, usize>) {
    let mut tokens = Vec::new();
    let mut literals = BTreeMap::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (comment(rest), None)
        } else if let Some(length) = literal(rest) {
            (length, Some(LITERAL))
        } else if first == '\'' {
            (1 + word(rest.trim_start_matches('\'')), None) // a lifetime
        } else if first.is_alphanumeric() || first == '_' {
            let length = word(rest);
            (length, Some(rest.split_at(length).0))
        } else if rest.starts_with("::") {
            (2, Some("::"))
        } else if first.is_whitespace() {
            (first.len_utf8(), None)
        } else {
            (first.len_utf8(), Some(rest.split_at(first.len_utf8()).0))
        };
        let (this, next) = rest.split_at(length.max(1));
        if let Some(text) = token {
            tokens.push(Token { text: text.to_owned(), line, test: false });
        }
        for (more, part) in this.split('\n').enumerate().filter(|_| token == Some(LITERAL)) {
            *literals.entry(line + more).or_insert(0) += part.chars().count();
        }
        line += this.matches('\n').count();
        rest = next;
    }
    (tokens, literals)
}

/// How long the word is that `text` begins with.
fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// How long the block comment is that `text` begins with; they nest.
fn comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut rest = text;
    loop {
        rest = if let Some(inner) = rest.strip_prefix("/*") {
            depth += 1;
            inner
        } else if let Some(outer) = rest.strip_prefix("*/") {
            depth = depth.saturating_sub(1);
            outer
        } else {
            let mut chars = rest.chars();
            chars.next();
            chars.as_str()
        };
        if depth == 0 || rest.is_empty() {
            return text.len() - rest.len();
        }
    }
}

/// How long the string or character is that `text` begins with, its prefix included.
fn literal(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c', 'r']);
    let prefix = text.strip_suffix(body)?;
    if !matches!(prefix, "" | "b" | "c" | "r" | "br" | "cr") {
        return None;
    }
    if prefix.ends_with('r') {
        let quoted = body.trim_start_matches('#');
        let hashes = body.strip_suffix(quoted)?;
        let end = quoted.strip_prefix('"')?.find(&format!("\"{hashes}"))?;
        return Some(prefix.len() + 2 * hashes.len() + end + 2);
    }
    let mut chars = body.char_indices();
    let (_, quote) = chars.next().filter(|(_, c)| matches!(c, '"' | '\''))?;
    if quote == '\'' && !body.starts_with("'\\") && body.chars().nth(2) != Some('\'') {
        return None; // a lifetime
    }
    let mut escaped = false;
    let (end, _) = chars.find(|(_, c)| {
        let ends = !escaped && *c == quote;
        escaped = !escaped && *c == '\\';
        ends
    })?;
    Some(prefix.len() + end + 1)
}

#[test]
fn texts_and_comments_are_no_code() {
    let source = Source::new(
        "src/x.rs",
        "/* a /* b */ c */ let x = r#\"d \"e\" \"# + b\"f\\\"\" + '\\'' + '\"'; // g\nfn h<'i>() {}",
    );
    let words = source.tokens.iter().map(|t| t.text.as_str()).filter(|t| is_word(t));
    assert_eq!(words.collect::<Vec<_>>(), ["let", "x", "fn", "h"]);
    assert_eq!(source.tokens.iter().filter(|t| t.text == LITERAL).count(), 4);
    assert_eq!(source.functions().first().map(|f| f.first), Some(2));
}

#[test]
fn tests_are_told_from_the_rest() {
    let source = Source::new(
        "src/x.rs",
        "fn a() {}\n#[cfg(test)]\nmod far;\n#[cfg(all(test, unix))]\n#[expect(x)]\nmod near \
         { fn b() {} #[tokio::test] async fn c() {} }\n#[cfg(not(test))]\nfn d() {}",
    );
    let functions = source.functions();
    let of = |choose: &dyn Fn(&Function) -> bool| {
        let chosen = functions.iter().filter(|f| choose(f));
        chosen.map(|f| f.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(&|f| source.tokens.get(f.token).is_some_and(|t| t.test)), "b c");
    assert_eq!(of(&|f| source.is_test(f)), "c");
    assert_eq!(source.test_modules, ["far"]);
}

#[test]
fn groups_are_spelled_out() {
    let source =
        Source::new("src/x.rs", "use crate::{a::{b, self}, c as d, e::*};\nf::g::<h::i>();");
    let paths = source.paths().into_iter().map(|path| path.names.join("::"));
    assert_eq!(
        paths.collect::<Vec<_>>(),
        ["crate::a::b", "crate::a::self", "crate::c", "crate::e::*", "f::g", "h::i"]
    );
}
