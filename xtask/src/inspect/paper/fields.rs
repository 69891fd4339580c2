// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fields of a section in few lines: one or more per struct, and equal elements of an array only once.

use crate::inspect::entry::Field;
use crate::inspect::words::shown;

/// Where lines are broken.
const LINE_CHARS: usize = 118;

/// Most fields of one struct that are shown.
const GROUP_FIELDS_MAX: usize = 64;

/// Deepest nesting of arrays that is looked into: names are the stream's, and nothing bounds the brackets in them.
const DEPTH_MAX: u32 = 16;

/// A struct, or a part of one between two others in it.
struct Group<'a> {
    path: &'a str,
    /// The fields in words.
    words: Vec<String>,
}

/// The lines for all fields of a section, indented by `margin`.
pub(super) fn lines(fields: &[Field], margin: usize) -> Vec<String> {
    let groups: Vec<Group<'_>> = fields.chunk_by(|one, other| one.path == other.path).filter_map(Group::new).collect();
    let mut lines = Vec::new();
    fold(&groups, 0, 0, &" ".repeat(margin), &mut lines);
    lines
}

impl<'a> Group<'a> {
    fn new(fields: &'a [Field]) -> Option<Self> {
        let path = fields.first()?.path.as_str();
        let is_zero = fields.len() > 1 && fields.iter().all(|field| field.is_zero);
        if is_zero {
            return Some(Self { path, words: vec![format!("{} fields, all zero", fields.len())] });
        }
        let mut words: Vec<String> = fields.iter().take(GROUP_FIELDS_MAX).map(word).collect();
        let more = fields.len().saturating_sub(GROUP_FIELDS_MAX);
        if more > 0 {
            words.push(format!("… {more} more, shown with --all"));
        }
        Some(Self { path, words })
    }

    /// What follows the first `skip` bytes of the path.
    fn rest(&self, skip: usize) -> &'a str {
        self.path.get(skip..).unwrap_or_default()
    }

    fn lines(&self, margin: &str, lines: &mut Vec<String>) {
        let mut line = margin.to_owned();
        if !self.path.is_empty() {
            line.push_str(&shown(self.path));
            line.push_str(": ");
        }
        let mut is_first = true;
        for word in &self.words {
            if !is_first && line.chars().count().saturating_add(word.chars().count()) > LINE_CHARS {
                lines.push(line.trim_end().to_owned());
                line = format!("{margin}  ");
            }
            line.push_str(word);
            line.push(' ');
            is_first = false;
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn word(field: &Field) -> String {
    if field.name.is_empty() { format!("({})", field.text) } else { format!("{}={}", shown(&field.name), field.text) }
}

/// An element of an array: its groups, and how much of their paths is the element's own name.
struct Element<'a, 'b> {
    array: &'a str,
    index: u64,
    groups: &'b [Group<'a>],
    skip: usize,
}

impl Element<'_, '_> {
    fn is_like(&self, other: &Self) -> bool {
        let key = |element: &Self| element.groups.iter().map(|group| group.rest(element.skip)).collect::<Vec<_>>();
        let words = |element: &Self| element.groups.iter().map(|group| group.words.clone()).collect::<Vec<_>>();
        self.array == other.array && key(self) == key(other) && words(self) == words(other)
    }
}

/// Shows groups whose paths have the first `skip` bytes in common.
fn fold<'a>(groups: &[Group<'a>], skip: usize, depth: u32, margin: &str, lines: &mut Vec<String>) {
    let (mut rest, mut before): (&[Group<'a>], Option<Element<'a, '_>>) = (groups, None);
    let mut like: Option<(u64, u64)> = None;
    while let Some(first) = rest.first() {
        let last = before.as_ref().map(|before| (before.array, like.map_or(before.index, |(_, to)| to)));
        let Some(element) = element(rest, skip, last).filter(|_| depth < DEPTH_MAX) else {
            told(before.as_ref(), like.take(), margin, lines);
            before = None;
            first.lines(margin, lines);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        rest = rest.get(element.groups.len()..).unwrap_or_default();
        if before.as_ref().is_some_and(|before| element.is_like(before)) {
            like = Some((like.map_or(element.index, |(from, _)| from), element.index));
            continue;
        }
        told(before.as_ref(), like.take(), margin, lines);
        fold(element.groups, element.skip, depth.saturating_add(1), margin, lines);
        before = Some(element);
    }
    told(before.as_ref(), like, margin, lines);
}

/// Says which elements are like the one before them.
fn told(before: Option<&Element<'_, '_>>, like: Option<(u64, u64)>, margin: &str, lines: &mut Vec<String>) {
    let (Some(before), Some((from, to))) = (before, like) else { return };
    let (array, model) = (shown(before.array), before.index);
    let which = if from == to { from.to_string() } else { format!("{from}…{to}") };
    lines.push(format!("{margin}{array}[{which}]: like [{model}]"));
}

/// The element of an array that `groups` start with, if they do. `before` is the one that came before.
fn element<'a, 'b>(groups: &'b [Group<'a>], skip: usize, before: Option<(&str, u64)>) -> Option<Element<'a, 'b>> {
    let path = groups.first()?.path;
    if let Some((array, index, skip)) = bracket(path, skip) {
        let is_in = |group: &&Group<'a>| {
            let start = path.get(..skip).unwrap_or_default();
            group.path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '[', '.']))
        };
        let length = groups.iter().take_while(is_in).count();
        return (length > 0).then_some(Element { array, index, groups: groups.get(..length)?, skip });
    }
    // QEMU leaves the index out of the last element of an array whose elements it describes one by one.
    let (array, index) = before?;
    let skip = array.len();
    let is_in = |group: &&Group<'a>| {
        group.path.strip_prefix(array).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let length = groups.iter().take_while(is_in).count();
    let index = index.saturating_add(1);
    (length > 0).then_some(Element { array: path.get(..skip)?, index, groups: groups.get(..length)?, skip })
}

/// The first index in a path behind `skip`: the name of the array, the index, and where what is behind it starts.
fn bracket(path: &str, skip: usize) -> Option<(&str, u64, usize)> {
    let open = path.get(skip..)?.find('[')?.saturating_add(skip);
    let close = path.get(open..)?.find(']')?.saturating_add(open);
    let index = path.get(open.saturating_add(1)..close)?.parse().ok()?;
    Some((path.get(..open)?, index, close.saturating_add(1)))
}

#[cfg(test)]
mod test {
    use serde_json::Value;

    use super::*;

    fn field(path: &str, name: &str, value: u64) -> Field {
        Field {
            path: path.to_owned(),
            name: name.to_owned(),
            type_name: "uint8".to_owned(),
            offset: 0,
            bytes: 1,
            value: Value::from(value),
            text: value.to_string(),
            is_zero: value == 0,
        }
    }

    #[test]
    fn a_struct_takes_a_line_and_equal_elements_are_told_once() {
        let fields = [
            field("", "a", 1),
            field("", "b", 0),
            field("t[0]", "x", 7),
            field("t[0]/u", "y", 0),
            field("t[0]/u", "z", 0),
            field("t[1]", "x", 7),
            field("t[1]/u", "y", 0),
            field("t[1]/u", "z", 0),
            field("t[2]", "x", 8),
            field("t[3]", "x", 8),
            field("t[4]", "x", 8),
            field("end", "e", 9),
        ];
        let expected = [
            "  a=1 b=0",
            "  t[0]: x=7",
            "  t[0]/u: 2 fields, all zero",
            "  t[1]: like [0]",
            "  t[2]: x=8",
            "  t[3…4]: like [2]",
            "  end: e=9",
        ];
        assert_eq!(lines(&fields, 2), expected);
    }

    #[test]
    fn arrays_in_arrays_and_the_last_without_index() {
        let fields = [
            field("m[0][0]", "x", 1),
            field("m[0][1]", "x", 1),
            field("m[1][0]", "x", 2),
            field("m[1][1]", "x", 3),
            field("d[0]/p", "x", 4),
            field("d[1]/p", "x", 4),
            field("d/p", "x", 4),
            field("dog", "x", 4),
        ];
        let expected = [
            "m[0][0]: x=1",
            "m[0][1]: like [0]",
            "m[1][0]: x=2",
            "m[1][1]: x=3",
            "d[0]/p: x=4",
            "d[1…2]: like [0]",
            "dog: x=4",
        ];
        assert_eq!(lines(&fields, 0), expected);
    }

    #[test]
    fn names_of_brackets_need_no_deep_stack() {
        let path = "a[0]".repeat(1 << 16);
        assert_eq!(lines(&[field(&path, "x", 1)], 0).len(), 1);
    }

    #[test]
    fn names_from_the_stream_are_escaped() {
        assert_eq!(lines(&[field("s\x1b", "n\x07", 1)], 0), ["s\\u{1b}: n\\u{7}=1"]);
    }

    #[test]
    fn long_lines_are_broken_between_fields() {
        let fields: Vec<Field> = (0..40).map(|number| field("", &format!("field{number}"), 1)).collect();
        let lines = lines(&fields, 4);
        assert!(lines.len() > 1 && lines.iter().all(|line| line.chars().count() <= LINE_CHARS), "{lines:?}");
        assert_eq!(lines.join(" ").matches("=1").count(), 40);
    }
}
