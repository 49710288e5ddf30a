//! A typed reader of TOML tables. It gives the values that it is asked for, and reports what is wrong with the others,
//! and with the keys that nobody asked for.
//!
//! A value that is wrong is reported and then reads as absent, so that reading goes on: whoever fills in a default for
//! it does no harm, since [`Report::into_result`] lets nothing pass once there is an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrors, Problem};
use super::word::{Word, alternatives, closest};

/// The errors of one file.
pub(super) struct Report<'a> {
    file: &'a str,
    /// The byte offset at which each line begins.
    line_starts: Vec<usize>,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { file, line_starts: std::iter::once(0).chain(after_newlines).collect(), errors: RefCell::default() }
    }

    /// Adds a problem at a byte offset of the file.
    pub(super) fn add(&self, offset: usize, problem: Problem) {
        self.errors.borrow_mut().push(ConfigError { file: self.file.to_owned(), line: self.line(offset), problem });
    }

    /// `value`, if nothing was reported.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
        let errors = self.into_errors();
        if errors.0.is_empty() { Ok(value) } else { Err(errors) }
    }

    /// What was reported, in the order of the lines.
    pub(super) fn into_errors(self) -> ConfigErrors {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        ConfigErrors(errors)
    }

    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }
}

/// A place of the file, for what turns out to be wrong with it only after its table was read.
pub(super) struct Place<'a> {
    report: &'a Report<'a>,
    offset: usize,
    /// What the table around it describes, as an error names it; empty in the file's own.
    subject: String,
}

impl Place<'_> {
    /// Reports a problem with what stands here.
    pub(super) fn reject(&self, problem: Problem) {
        let Self { report, offset, subject } = self;
        let problem = if subject.is_empty() { problem } else { problem.of(format_args!("{subject}:")) };
        report.add(*offset, problem);
    }
}

/// Values that may be used once in a file, with the line that used each.
pub(super) struct Taken<K>(HashMap<K, usize>);

impl Taken<String> {
    /// The texts used so far, in no order.
    pub(super) fn texts(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

impl<K> Default for Taken<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// One table of the file.
pub(super) struct Table<'a> {
    report: &'a Report<'a>,
    entries: &'a DeTable<'a>,
    /// The byte offset of the header.
    start: usize,
    /// What the table around this one describes, ready to stand before the subject: `service "crm-web", `.
    outer: String,
    /// What the table describes, without its name: `backend`.
    kind: &'static str,
    /// What the table describes, as an error names it: `service "crm-web", backend "10.0.0.1"`.
    subject: String,
    /// The keys asked for so far.
    known: Vec<&'static str>,
    /// The keys refused so far.
    refused: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The table that is the whole file.
    pub(super) fn root(report: &'a Report<'a>, document: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            report,
            entries: document.get_ref(),
            start: document.span().start,
            outer: String::new(),
            kind: "",
            subject: String::new(),
            known: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Names the table in errors; until then it goes by its number.
    pub(super) fn rename(&mut self, name: &str) {
        self.subject = format!("{}{} {name:?}", self.outer, self.kind);
    }

    /// What the table describes, as an error names it.
    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// The place of the value of `key`.
    pub(super) fn place(&self, key: &str) -> Place<'a> {
        self.place_at(self.offset(key))
    }

    /// The place of the table as a whole.
    pub(super) fn start(&self) -> Place<'a> {
        self.place_at(self.start)
    }

    /// Whether the value of the key is an array.
    pub(super) fn has_array(&self, key: &str) -> bool {
        matches!(self.entries.get(key).map(Spanned::get_ref), Some(DeValue::Array(_)))
    }

    /// Whether the key is there, be its value right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Reports each of these keys that is missing. With each comes an example of a value, as TOML.
    pub(super) fn require(&self, keys: &[(&str, &str)]) {
        for (key, example) in keys.iter().filter(|(key, _)| !self.has(key)) {
            self.reject_table(Problem::new(
                format!("{key} is missing"),
                format!("add it, for example {key} = {example}"),
            ));
        }
    }

    /// A string, as `parse` understands it.
    pub(super) fn text<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Option<T> {
        self.value(key, |value| read_text(value, parse))
    }

    /// An array of strings, as `parse` understands each; absent if one of them is wrong.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        let items = self.value(key, |value| match value {
            DeValue::Array(items) => Ok(items),
            _ => Err(wrong_type(value, "strings in double quotes, with commas between them and [ ] around them")),
        })?;
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match read_text(item.get_ref(), &mut parse) {
                Ok(text) => texts.push(text),
                Err(problem) => {
                    self.report_at(item.span().start, problem.of(format_args!("{key} #{}", index + 1)));
                }
            }
        }
        (texts.len() == items.len()).then_some(texts)
    }

    /// A string or a whole number, as `parse` understands its digits.
    pub(super) fn text_or_number<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        match self.entries.get(key).map(Spanned::get_ref) {
            Some(DeValue::Integer(number)) => self.value(key, |_| parse_bare(&number.to_string(), parse)),
            _ => self.text(key, parse),
        }
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        self.number_unless(key, range, |_| None)
    }

    /// A whole number within `range`, unless `refuse` knows what is wrong with it in particular.
    pub(super) fn number_unless<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        refuse: impl FnOnce(i64) -> Option<Problem>,
    ) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.value(key, |value| {
            let DeValue::Integer(number) = value else {
                return Err(wrong_type(value, &wanted));
            };
            let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
            if let Some(problem) = value.and_then(refuse) {
                return Err(problem);
            }
            value
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| range.contains(number))
                .ok_or_else(|| Problem::new(format!("{number} is out of range"), format!("write {wanted}")))
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.value(key, |value| match value {
            DeValue::Boolean(flag) => Ok(*flag),
            _ => Err(wrong_type(value, "true or false")),
        })
    }

    /// One of a few words.
    pub(super) fn word<W: Word>(&mut self, key: &'static str) -> Option<W> {
        self.text(key, W::parse)
    }

    /// The table under `key`. `header` is how it is to be written, `kind` what it describes.
    pub(super) fn table(&mut self, key: &'static str, header: &str, kind: &'static str) -> Option<Self> {
        let entries = self.value(key, |value| match value {
            DeValue::Table(entries) => Ok(entries),
            _ => Err(wrong_type(value, &format!("the section as {header}"))),
        })?;
        Some(self.inner(entries, self.offset(key), kind, kind))
    }

    /// The tables of the array under `key`. `header` is how each is to be written, `kind` what it describes.
    pub(super) fn tables(&mut self, key: &'static str, header: &str, kind: &'static str) -> Vec<Self> {
        let wanted = format!("each section as {header}");
        let items = self.value(key, |value| match value {
            DeValue::Array(items) => Ok(items),
            _ => Err(wrong_type(value, &wanted)),
        });
        let mut tables = Vec::new();
        for (index, item) in items.into_iter().flat_map(|items| items.iter()).enumerate() {
            let start = item.span().start;
            if let DeValue::Table(entries) = item.get_ref() {
                tables.push(self.inner(entries, start, kind, &format!("{kind} #{}", index + 1)));
            } else {
                self.report_at(start, wrong_type(item.get_ref(), &wanted).of(key));
            }
        }
        tables
    }

    /// Reports those of the keys that are there, with the problem that each makes.
    pub(super) fn refuse(&mut self, keys: &[&'static str], problem: impl Fn(&str) -> Problem) {
        self.refused.extend(keys);
        for key in keys.iter().filter(|key| self.has(key)) {
            self.reject(key, problem(key));
        }
    }

    /// Reports a value that another line of the file has already.
    pub(super) fn unique<K: Hash + Eq>(&self, key: &str, value: K, taken: &mut Taken<K>, help: &str) {
        let line = self.report.line(self.offset(key));
        if let Some(other) = taken.0.insert(value, line) {
            let message = format!("{key} is the same as in line {other}");
            self.reject(key, Problem::new(message, help));
        }
    }

    /// Reports a problem with the value of `key`.
    pub(super) fn reject(&self, key: &str, problem: Problem) {
        self.report_at(self.offset(key), problem);
    }

    /// Reports a problem with the table as a whole.
    pub(super) fn reject_table(&self, problem: Problem) {
        self.report_at(self.start, problem);
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.entries.keys() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) && !self.refused.contains(&name) {
                let help = match closest(name, &self.known) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => format!("remove it, or write {}", alternatives(&self.known)),
                };
                let problem = Problem::new(format!("unknown key {name:?}"), help);
                self.report_at(key.span().start, problem);
            }
        }
    }

    fn value<T>(&mut self, key: &'static str, read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>) -> Option<T> {
        self.known.push(key);
        let value = self.entries.get(key)?;
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.reject(key, problem.of(key));
                None
            }
        }
    }

    fn inner(&self, entries: &'a DeTable<'a>, start: usize, kind: &'static str, title: &str) -> Self {
        let outer = if self.subject.is_empty() { String::new() } else { format!("{}, ", self.subject) };
        Self {
            report: self.report,
            entries,
            start,
            subject: format!("{outer}{title}"),
            outer,
            kind,
            known: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn offset(&self, key: &str) -> usize {
        self.entries.get(key).map_or(self.start, |value| value.span().start)
    }

    fn report_at(&self, offset: usize, problem: Problem) {
        self.place_at(offset).reject(problem);
    }

    fn place_at(&self, offset: usize) -> Place<'a> {
        Place { report: self.report, offset, subject: self.subject.clone() }
    }
}

fn read_text<T>(value: &DeValue<'_>, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Result<T, Problem> {
    let bare = match value {
        DeValue::String(text) => return parse(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => {
            return Err(wrong_type(value, "a string in double quotes"));
        }
    };
    // What `parse` has to say against the value helps more than that quotes are missing.
    parse_bare(&bare, parse).and_then(|_| Err(wrong_type(value, "the same in double quotes")))
}

/// Reads what stands in the file without quotes, and puts none around it in an error.
fn parse_bare<T>(bare: &str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Result<T, Problem> {
    parse(bare).map_err(|problem| Problem { message: problem.message.replace(&format!("{bare:?}"), bare), ..problem })
}

fn wrong_type(value: &DeValue<'_>, wanted: &str) -> Problem {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Problem::new(format!("is {found}"), format!("write {wanted}"))
}
