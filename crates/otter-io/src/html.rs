//! Pages that stand alone: one file of HTML without any outside reference, light and dark.

/// What all pages share: colors, type, the column, cards.
const STYLE: &str = include_str!("page.css");

/// Text for HTML and SVG, inside elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// The whole page around `body`; `title` is plain text, `style` is added to what all pages share.
pub fn page(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>\n\
         <style>{STYLE}{style}</style></head>\n<body><main>\n{body}</main></body></html>\n",
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_cannot_break_out() {
        let page = page("</title><script>'\"&", "p{}", "<p>body</p>");
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;&#39;&quot;&amp;</title>"), "{page}");
        assert!(page.contains("p{}</style>") && page.ends_with("<p>body</p></main></body></html>\n"));
    }
}
