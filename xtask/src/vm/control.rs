// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Debian's control format: paragraphs of `Field: value` with continuation lines, in which package records and
//! deb822 source lists are written.

/// One paragraph, fields in the order of the text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Paragraph {
    fields: Vec<(String, String)>,
}

impl Paragraph {
    /// A field's value; names compare without case. Continuation lines are joined by newlines, each without its
    /// leading space.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Splits a text into paragraphs. Comment lines are skipped wherever they stand; lines that are no field are too.
pub(crate) fn parse(text: &str) -> Vec<Paragraph> {
    let mut paragraphs = Vec::new();
    let mut current = Paragraph::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !current.fields.is_empty() {
                paragraphs.push(core::mem::take(&mut current));
            }
        } else if line.starts_with('#') {
        } else if let Some(continuation) = line.strip_prefix([' ', '\t']) {
            if let Some((_, value)) = current.fields.last_mut() {
                value.push('\n');
                value.push_str(continuation.trim_end());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            current.fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    if !current.fields.is_empty() {
        paragraphs.push(current);
    }
    paragraphs
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn paragraphs_fields_continuations_and_comments() {
        let text = "# head\n\nTypes: deb\n# inside\nURIs: mirror:/x\nKey:\n -----BEGIN\n .\n  abc \n\n\n\nA: 1\n";
        let paragraphs = parse(text);
        assert_eq!(paragraphs.len(), 2);
        assert_eq!(paragraphs[0].get("types"), Some("deb"));
        assert_eq!(paragraphs[0].get("URIs"), Some("mirror:/x"));
        assert_eq!(paragraphs[0].get("Key"), Some("\n-----BEGIN\n.\n abc"));
        assert_eq!(paragraphs[1].get("A"), Some("1"));
        assert_eq!(paragraphs[1].get("B"), None);
        assert!(parse(" stray\nno field\n").is_empty());
    }
}
