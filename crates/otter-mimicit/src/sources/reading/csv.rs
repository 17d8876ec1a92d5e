//! Comma- or tab-separated rows (RFC 4180): quoted fields may hold separators, line breaks and doubled quotes.

/// Reads rows one after the other.
#[derive(Clone)]
pub struct Rows<'t> {
    text: &'t str,
    delimiter: char,
    /// Byte at which the next row begins.
    pub at: usize,
    /// Line on which the next row begins, from 1.
    pub line: usize,
}

/// A row and where it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Line of its first character.
    pub line: usize,
    /// Its fields.
    pub fields: Vec<String>,
}

impl<'t> Rows<'t> {
    /// Rows of a text from the given place on.
    pub fn new(text: &'t str, delimiter: char, at: usize, line: usize) -> Self {
        Self { text, delimiter, at, line }
    }

    fn row(&mut self) -> Result<Row, String> {
        let line = self.line;
        let mut fields = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            if let Some(quoted) = rest.strip_prefix('"') {
                let (field, length) = self.quoted(quoted, line)?;
                self.line += field.bytes().filter(|&byte| byte == b'\n').count();
                fields.push(field);
                self.at += 1 + length;
            } else {
                let end = rest.find([self.delimiter, '\n']).unwrap_or(rest.len());
                let field = &rest[..end];
                if field.contains('"') {
                    self.skip_line();
                    return Err(format!(
                        "line {line}: a quote inside the unquoted field {field:?}; put the field in quotes and double the quote"
                    ));
                }
                fields.push(field.trim_end_matches('\r').to_owned());
                self.at += end;
            }
            let rest = &self.text[self.at..];
            if rest.starts_with(self.delimiter) {
                self.at += self.delimiter.len_utf8();
                continue;
            }
            let ending = ["\r\n", "\n"].iter().find(|ending| rest.starts_with(**ending));
            match ending {
                Some(ending) => {
                    self.at += ending.len();
                    self.line += 1;
                }
                None if rest.is_empty() || rest == "\r" => self.at = self.text.len(),
                None => {
                    let found: String = rest.chars().take(12).collect();
                    self.skip_line();
                    return Err(format!(
                        "line {line}: {found:?} after a closing quote; a separator or the end of the line is expected"
                    ));
                }
            }
            return Ok(Row { line, fields });
        }
    }

    /// The content after an opening quote, and the bytes up to behind the closing one.
    fn quoted(&mut self, text: &str, line: usize) -> Result<(String, usize), String> {
        let mut field = String::new();
        let mut at = 0;
        loop {
            let Some(quote) = text[at..].find('"') else {
                self.at = self.text.len();
                return Err(format!("line {line}: a quote that begins here is never closed"));
            };
            field.push_str(&text[at..at + quote]);
            at += quote + 1;
            if !text[at..].starts_with('"') {
                return Ok((field, at));
            }
            field.push('"');
            at += 1;
        }
    }

    /// Goes on with the next line after damage.
    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
        self.line += 1;
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, String>;

    fn next(&mut self) -> Option<Self::Item> {
        // Empty lines are no rows.
        while let Some(ending) =
            ["\r\n", "\n"].iter().find(|ending| self.text[self.at..].starts_with(**ending))
        {
            self.at += ending.len();
            self.line += 1;
        }
        (self.at < self.text.len()).then(|| self.row())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_line_breaks_and_lines() {
        let text = "a,b\r\n\r\n\"x, \"\"y\"\"\nz\",é\n,\nlast,";
        let rows: Vec<Row> = Rows::new(text, ',', 0, 1).map(Result::unwrap).collect();
        let fields: Vec<Vec<&str>> =
            rows.iter().map(|row| row.fields.iter().map(String::as_str).collect()).collect();
        assert_eq!(fields, [["a", "b"], ["x, \"y\"\nz", "é"], ["", ""], ["last", ""]]);
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3, 5, 6]);
    }

    #[test]
    fn damage_is_named_by_line_and_passed_over() {
        let rows: Vec<Result<Row, String>> = Rows::new("a\nb\"c\n\"d\"e\nf\n\"g\nh", ',', 0, 1).collect();
        assert_eq!(rows.len(), 5);
        assert!(rows[1].as_ref().unwrap_err().starts_with("line 2"));
        assert!(rows[2].as_ref().unwrap_err().starts_with("line 3"));
        assert_eq!(rows[3].as_ref().unwrap().line, 4);
        assert!(rows[4].as_ref().unwrap_err().contains("never closed"));
    }

    proptest! {
        #[test]
        fn written_rows_come_back(rows in proptest::collection::vec(proptest::collection::vec("[a\",\n é]{0,5}", 2..4), 1..5)) {
            let text: Vec<String> = rows
                .iter()
                .map(|row| {
                    let fields: Vec<String> = row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
                    fields.join(",")
                })
                .collect();
            let read: Vec<Vec<String>> = Rows::new(&text.join("\r\n"), ',', 0, 1).map(|row| row.unwrap().fields).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn any_text_ends(text in "[a\",\n\ré]{0,20}") {
            prop_assert!(Rows::new(&text, ',', 0, 1).count() <= 21);
        }
    }
}
