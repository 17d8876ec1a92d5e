//! Which of the eight languages of MIMIC-IT a text is in, guessed from its script and its commonest words.
//!
//! Chinese, Japanese, Korean and Arabic are told by script: any kana makes a text Japanese. Among English, Spanish,
//! German and French the language with the most of its function words wins, letters that only one of them has
//! counting as words; without any, the text is English if it is plain ASCII of three words or more, else unknown.
//! A short text in Latin script (a name, a number) therefore often stays unknown: that is meant.

/// The codes in the order of the paper: English first.
pub const LANGUAGES: [&str; 8] = ["en", "zh", "es", "ja", "de", "fr", "ko", "ar"];

/// Looks at so many characters only; longer texts do not change language.
const CHARACTERS: usize = 400;

/// Words that are frequent in one of the languages and rare in the others, by language.
const WORDS: [(&str, &[&str]); 4] = [
    (
        "en",
        &[
            "the", "and", "is", "of", "in", "to", "are", "what", "how", "with", "there", "this", "that",
            "it", "can", "you", "does", "has", "was", "they", "which", "who", "where", "why", "on", "for",
            "at", "from", "his", "her", "do", "if", "i", "my", "not", "yes", "he", "she", "a",
        ],
    ),
    (
        "es",
        &[
            "el", "los", "las", "una", "y", "es", "del", "qué", "en", "con", "por", "para", "cómo", "está",
            "están", "hay", "su", "al", "dónde", "cuántos", "cuántas", "se", "lo", "mi", "son", "muy", "sí",
            "no", "cuál", "la", "de", "un", "que", "quién", "tiene",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "ein", "eine", "einen", "einem", "einer", "auf", "mit", "den",
            "dem", "wie", "was", "sind", "im", "zu", "von", "nicht", "es", "sich", "für", "wo", "wer", "ich",
            "mein", "kann", "ja", "nein", "warum", "welche", "er", "sie", "in",
        ],
    ),
    (
        "fr",
        &[
            "le", "les", "une", "et", "est", "du", "des", "que", "quelle", "quel", "dans", "avec", "pour",
            "sur", "il", "elle", "sont", "au", "aux", "qui", "où", "comment", "ce", "cette", "ne", "pas",
            "la", "de", "un", "y", "oui", "non", "combien", "pourquoi", "je", "mon", "se", "en", "quels",
            "l", "d", "a",
        ],
    ),
];

/// Letters that of these languages only one uses.
const LETTERS: [(&str, &str); 3] = [("es", "ñ¿¡"), ("de", "äöß"), ("fr", "çèêœàùîôë")];

/// The code of a text's language; `None` if nothing tells.
pub fn guess_language(text: &str) -> Option<&'static str> {
    let mut scripts = [0_usize; 5]; // kana, Han, Hangul, Arabic, Latin
    for character in text.chars().take(CHARACTERS) {
        let script = match character {
            '\u{3040}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{FF66}'..='\u{FF9D}' => 0,
            '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' => 1,
            '\u{1100}'..='\u{11FF}' | '\u{3130}'..='\u{318F}' | '\u{AC00}'..='\u{D7AF}' => 2,
            '\u{0600}'..='\u{06FF}'
            | '\u{0750}'..='\u{077F}'
            | '\u{FB50}'..='\u{FDFF}'
            | '\u{FE70}'..='\u{FEFC}' => 3,
            'a'..='z' | 'A'..='Z' | '\u{C0}'..='\u{24F}' => 4,
            _ => continue,
        };
        scripts[script] += 1;
    }
    let [kana, han, hangul, arabic, latin] = scripts;
    // A sign or name in another script may be quoted; a character of Chinese says as much as three letters.
    let east = 3 * (kana + han + hangul);
    if east + arabic > latin {
        return Some(match () {
            () if arabic > east => "ar",
            () if hangul > kana + han => "ko",
            () if kana > 0 => "ja",
            () => "zh",
        });
    }
    if latin == 0 { None } else { latin_language(text) }
}

fn latin_language(text: &str) -> Option<&'static str> {
    let text: String = text.chars().take(CHARACTERS).flat_map(char::to_lowercase).collect();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let score = |language: &str, known: &[&str]| {
        let of_words = words.iter().filter(|word| known.contains(word)).count();
        let letters = LETTERS.iter().find(|(code, _)| *code == language).map_or("", |(_, letters)| letters);
        of_words + text.chars().filter(|c| letters.contains(*c)).count()
    };
    // On a tie the earlier one, English first.
    let (best, language) = WORDS
        .iter()
        .rev()
        .map(|(language, known)| (score(language, known), *language))
        .max_by_key(|(score, _)| *score)?;
    match best {
        0 if words.len() >= 3 && text.is_ascii() => Some("en"),
        0 => None,
        _ => Some(language),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Questions and answers about pictures, written for this test.
    const SENTENCES: &[(&str, &[&str])] = &[
        (
            "en",
            &[
                "What is the man holding?",
                "Two dogs run across a field.",
                "How many cups are there?",
                "It is blue.",
                "Yes.",
                "The second picture shows one more car near the gate.",
                "Red umbrella",
                "Why does she open the window?",
                "Describe differences between both images",
                "I would put on gloves before touching this.",
            ],
        ),
        (
            "es",
            &[
                "¿Qué sostiene el hombre?",
                "Dos perros corren por el campo.",
                "¿Cuántas tazas hay?",
                "Es azul.",
                "Sí.",
                "La segunda imagen muestra un coche más cerca de la puerta.",
                "Paraguas rojo",
                "¿Por qué abre ella la ventana?",
                "Describe las diferencias entre ambas imágenes",
                "Me pondría guantes antes de tocar esto.",
            ],
        ),
        (
            "de",
            &[
                "Was hält der Mann in der Hand?",
                "Zwei Hunde laufen über ein Feld.",
                "Wie viele Tassen sind zu sehen?",
                "Sie ist blau.",
                "Ja.",
                "Das zweite Bild zeigt ein weiteres Auto am Tor.",
                "Roter Regenschirm",
                "Warum öffnet sie das Fenster?",
                "Beschreibe die Unterschiede zwischen den Bildern",
                "Ich würde vorher Handschuhe anziehen.",
            ],
        ),
        (
            "fr",
            &[
                "Que tient l'homme ?",
                "Deux chiens courent dans un champ.",
                "Combien de tasses y a-t-il ?",
                "Elle est bleue.",
                "Oui.",
                "La deuxième image montre une voiture de plus près du portail.",
                "Parapluie rouge",
                "Pourquoi ouvre-t-elle la fenêtre ?",
                "Décris les différences entre les deux images",
                "Je mettrais des gants avant d'y toucher.",
            ],
        ),
        (
            "zh",
            &[
                "这个男人拿着什么？",
                "两只狗跑过田野。",
                "有几个杯子？",
                "是蓝色的。",
                "是。",
                "第二张图片里多了一辆 BMW 汽车。",
            ],
        ),
        (
            "ja",
            &[
                "男性は何を持っていますか？",
                "二匹の犬が野原を走っている。",
                "カップはいくつありますか。",
                "青です。",
                "はい。",
                "二枚目の写真には車がもう一台ある。",
            ],
        ),
        (
            "ko",
            &[
                "남자는 무엇을 들고 있나요?",
                "개 두 마리가 들판을 달립니다.",
                "컵이 몇 개 있나요?",
                "파란색입니다.",
                "네.",
                "두 번째 사진에는 차가 한 대 더 있습니다.",
            ],
        ),
        (
            "ar",
            &[
                "ماذا يحمل الرجل؟",
                "كلبان يركضان في الحقل.",
                "كم عدد الأكواب؟",
                "إنه أزرق.",
                "نعم.",
                "تظهر الصورة الثانية سيارة أخرى قرب البوابة.",
            ],
        ),
    ];

    #[test]
    fn most_sentences_are_recognized_and_hardly_any_is_taken_for_another_language() {
        let (mut right, mut wrong, mut all) = (0, Vec::new(), 0);
        for (language, sentences) in SENTENCES {
            for sentence in *sentences {
                all += 1;
                match guess_language(sentence) {
                    Some(guess) if guess == *language => right += 1,
                    None => {}
                    Some(guess) => wrong.push((guess, *sentence)),
                }
            }
        }
        println!("{right} of {all} right, wrong: {wrong:?}");
        assert!(right * 100 >= all * 90, "{right} of {all}; wrong: {wrong:?}");
        assert!(wrong.len() <= 1, "{wrong:?}");
    }

    #[test]
    fn nothing_tells() {
        for text in ["", "42", "…", "Ω ≈ 3", "Šibenik"] {
            assert_eq!(guess_language(text), None, "{text}");
        }
    }
}
