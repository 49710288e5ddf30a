//! Frames for people to read.

use std::fmt::Write as _;

const ROW: usize = 16;

/// The bytes in rows, with their offsets.
pub(crate) fn dump(bytes: &[u8]) -> String {
    (0..bytes.len()).step_by(ROW).map(|offset| row(' ', bytes, offset)).collect()
}

/// Both in rows: once where they agree, one under the other where they do not.
pub(crate) fn difference(expected: &[u8], actual: &[u8]) -> String {
    let mut text = String::new();
    for offset in (0..expected.len().max(actual.len())).step_by(ROW) {
        if slice(expected, offset) == slice(actual, offset) {
            text += &row(' ', expected, offset);
            continue;
        }
        text += &row('-', expected, offset);
        text += &row('+', actual, offset);
        text += &marks(slice(expected, offset), slice(actual, offset));
    }
    text
}

fn slice(bytes: &[u8], offset: usize) -> &[u8] {
    let from = offset.min(bytes.len());
    &bytes[from..(offset + ROW).min(bytes.len())]
}

fn row(mark: char, bytes: &[u8], offset: usize) -> String {
    let mut text = format!("  {mark} {offset:4}:");
    for byte in slice(bytes, offset) {
        write!(text, " {byte:02x}").expect("writing to a string succeeds");
    }
    text + "\n"
}

fn marks(expected: &[u8], actual: &[u8]) -> String {
    let mark = |i: usize| if expected.get(i) == actual.get(i) { "   " } else { " ^^" };
    let marks: String = (0..expected.len().max(actual.len())).map(mark).collect();
    format!("         {}\n", marks.trim_end())
}
