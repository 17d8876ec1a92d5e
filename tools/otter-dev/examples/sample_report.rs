//! Writes a report with invented numbers, to look at its design: `cargo run -p otter-dev --example sample_report out.html`.

use std::collections::BTreeMap;

use otter_eval::ShotTable;
use otter_eval::report::{
    Card, CommandGroup, Curve, ModelResult, QuickstartReport, SampleCard, Stage, Turn, render,
};
use otter_eval::table::{Cell, TableRow};

fn table(families: &[(&str, Option<bool>, f64, [f64; 4])], n: usize) -> ShotTable {
    let shots = vec![0, 1, 2, 4];
    let row = |(family, held_out, chance, accuracy): &(&str, Option<bool>, f64, [f64; 4])| {
        let cells: BTreeMap<usize, Cell> = std::iter::zip(&shots, accuracy)
            .map(|(&shots, accuracy)| {
                let correct = (accuracy * n as f64) as usize;
                (shots, Cell { n, correct, exact: correct * 9 / 10, chance: *chance })
            })
            .collect();
        TableRow { family: (*family).into(), held_out: *held_out, kind: None, cells }
    };
    ShotTable { shots: shots.clone(), rows: families.iter().map(row).collect() }
}

/// A small PNG: a filled square or disc on gray, stored without compression.
fn picture(color: [u8; 3], round: bool) -> Vec<u8> {
    let side = 32i32;
    let mut raw = Vec::new();
    for y in 0..side {
        raw.push(0);
        for x in 0..side {
            let (dx, dy) = (x - 15, y - 17);
            let inside = if round { dx * dx + dy * dy < 80 } else { dx.abs() < 8 && dy.abs() < 8 };
            raw.extend(if inside { color } else { [112, 116, 120] });
        }
    }
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg()))
        })
    };
    let adler = raw
        .iter()
        .fold((1u32, 0u32), |(a, b), &v| ((a + u32::from(v)) % 65521, (b + a + u32::from(v)) % 65521));
    let length = raw.len() as u16;
    let mut data = vec![0x78, 0x01, 1];
    data.extend(length.to_le_bytes());
    data.extend((!length).to_le_bytes());
    data.extend(&raw);
    data.extend((adler.1 << 16 | adler.0).to_be_bytes());
    let mut png = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n'];
    let header = [0, 0, 0, 32, 0, 0, 0, 32, 8, 2, 0, 0, 0];
    for (kind, content) in [(*b"IHDR", &header[..]), (*b"IDAT", &data[..]), (*b"IEND", &[][..])] {
        png.extend((content.len() as u32).to_be_bytes());
        let chunk: Vec<u8> = kind.iter().chain(content).copied().collect();
        png.extend(&chunk);
        png.extend(crc(&chunk).to_be_bytes());
    }
    png
}

fn turn(color: [u8; 3], round: bool, question: &str, answer: &str) -> Turn {
    Turn { images: vec![picture(color, round)], question: question.into(), answer: answer.into() }
}

fn report() -> QuickstartReport {
    let (red, blue, yellow) = ([220, 40, 40], [50, 80, 230], [235, 215, 50]);
    let curve = |name: &str, model, evaluation, end: f64, slow: f64| Curve {
        name: name.into(),
        model: Some(model),
        evaluation,
        points: (0..if evaluation { 9 } else { 800 })
            .map(|i| {
                let step = f64::from(i) * if evaluation { 100.0 } else { 1.0 };
                let wobble = if evaluation { 0.0 } else { (step * 12.9898).sin() * 0.12 };
                (step, end + (2.8 - end) * (-step / slow).exp() + wobble)
            })
            .collect(),
    };
    let families = |shift: f64, binding: [f64; 4], seen: [f64; 4]| {
        let flat = |base: f64| [base - shift, base - shift + 0.01, base - shift + 0.015, base - shift + 0.02];
        vec![
            ("attribute", None, 0.17, flat(0.95)),
            ("counting", None, 0.25, flat(0.78)),
            ("relation", None, 0.3, flat(0.66)),
            ("difference", None, 0.25, flat(0.6)),
            ("binding", Some(false), 0.5, seen),
            ("binding", Some(true), 0.5, binding),
        ]
    };
    QuickstartReport {
        title: "Otter quickstart".into(),
        headline: "With four examples in the prompt, Otter names things it has never been trained on: 93.5 % right, chance is 50 %.".into(),
        summary: "A small Otter was tuned on a synthetic picture world, once with in-context examples and once without. Its words and pairs of concepts below marked “held out” never occur in training, so the examples in the prompt are the only way to know them.".into(),
        environment: vec!["otter 0.1.0".into(), "AMD EPYC 7763, 2 cores".into(), "2026-11-23".into(), "invented numbers".into()],
        seconds: 552.0,
        samples: 12_000,
        parameters_trained: 1_012_480,
        parameters_total: 1_733_912,
        peak_memory_bytes: Some(412 << 20),
        planned_memory_bytes: Some(460 << 20),
        cards: vec![Card { label: "Speed".into(), value: "31 k".into(), note: "tokens a second".into() }],
        stages: [("make data", 11.0), ("tune", 300.0), ("tune twin", 160.0), ("evaluate", 81.0)]
            .map(|(name, seconds)| Stage { name: name.into(), seconds })
            .to_vec(),
        models: vec![
            ModelResult {
                name: "tuned".into(),
                description: "with in-context examples".into(),
                table: table(&families(0.0, [0.5, 0.82, 0.9, 0.935], [0.51, 0.85, 0.93, 0.96]), 200),
            },
            ModelResult {
                name: "twin".into(),
                description: "the same, tuned without examples".into(),
                table: table(&families(0.015, [0.49, 0.51, 0.53, 0.5], [0.5, 0.52, 0.5, 0.53]), 200),
            },
            ModelResult {
                name: "base".into(),
                description: "before tuning".into(),
                table: table(&families(0.45, [0.5, 0.49, 0.52, 0.5], [0.5, 0.5, 0.48, 0.51]), 200),
            },
        ],
        loss: vec![
            curve("tuned, training", 0, false, 0.42, 150.0),
            curve("twin, training", 1, false, 0.71, 130.0),
            curve("tuned, evaluation", 0, true, 0.47, 150.0),
            curve("twin, evaluation", 1, true, 0.8, 130.0),
        ],
        learning_rate: vec![Curve {
            name: "tuned and twin".into(),
            model: None,
            evaluation: false,
            points: (0..800)
                .map(|i| {
                    let t = f64::from(i) / 800.0;
                    (f64::from(i), 1e-3 * (t / 0.05).min(1.0) * (0.5 + 0.5 * (std::f64::consts::PI * t).cos()))
                })
                .collect(),
        }],
        samples_shown: vec![
            SampleCard {
                caption: "binding, held out · 1 shot".into(),
                examples: vec![
                    turn(red, true, "what is this ?", "wugpim"),
                    turn(blue, false, "name this .", "daxlo"),
                ],
                query: turn(red, true, "what is it called ?", ""),
                model_answer: "wugpim".into(),
                truth: "wugpim".into(),
                right: true,
                candidates: vec![("wugpim".into(), 0.94), ("daxlo".into(), 0.06)],
            },
            SampleCard {
                caption: "attribute · 0 shots".into(),
                query: turn(yellow, false, "what colour is the object ?", ""),
                model_answer: "yellow".into(),
                truth: "yellow".into(),
                right: true,
                candidates: vec![("yellow".into(), 0.9), ("orange".into(), 0.08), ("red".into(), 0.02)],
                ..SampleCard::default()
            },
            SampleCard {
                caption: "difference · 0 shots".into(),
                query: Turn {
                    images: vec![picture(blue, true), picture(yellow, true)],
                    question: "what changed between the pictures ?".into(),
                    answer: String::new(),
                },
                model_answer: "the shape".into(),
                truth: "the colour".into(),
                right: false,
                candidates: vec![("the colour".into(), 0.38), ("the shape".into(), 0.44), ("the size".into(), 0.13), ("nothing".into(), 0.05)],
                ..SampleCard::default()
            },
        ],
        caveats: vec![
            "The world is synthetic and tiny; nothing here speaks about photographs.".into(),
            "One seed. The intervals cover the choice of queries, not the luck of training.".into(),
        ],
        commands: vec![
            CommandGroup {
                title: "Repeat this run".into(),
                commands: vec![("otter quickstart --seed 0 --out runs/quickstart".into(), String::new())],
            },
            CommandGroup {
                title: "Next".into(),
                commands: vec![
                    ("otter chat runs/quickstart/model --image picture.png".into(), "Talk to the model you have just tuned.".into()),
                    ("otter train --config runs/quickstart/config.toml --train.steps 4000".into(), "Train longer.".into()),
                ],
            },
        ],
    }
}

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "sample_report.html".into());
    std::fs::write(path, render(&report()))
}
