//! `otter data import` with the real binary: tables of one's own, pairs of pictures, videos; stopped and killed runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Run, otter};
use image::{Rgb, RgbImage};
use otter_data::{ImageTable, InstructionTable};
use serde_json::{Value, json};

fn picture(path: &Path, shade: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_fn(9, 7, |x, y| Rgb([shade, x as u8 * 20, y as u8 * 30])).save(path).unwrap();
}

fn import(source: &str, place: &Path, more: &[&str]) -> Run {
    let mut arguments = arguments!["data", "import", source, "--out", place.join("out"), "--json"].to_vec();
    arguments.extend(more.iter().map(Into::into));
    otter(&arguments)
}

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_csv_and_the_same_as_json_lines() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    picture(&place.path().join("photos/a.png"), 10);
    picture(&place.path().join("photos/b.jpg"), 90);
    fs::write(
        path("table.csv"),
        "image,instruction,answer\na.png,How many?,\"Two, or three.\"\na.png,Which?,Left.\nb.jpg,What?,A cup.\nc.jpg,Gone?,Yes.\n",
    )
    .unwrap();
    let lines = [
        json!({"image": "a.png", "instruction": "How many?", "answer": "Two, or three."}),
        json!({"image": "a.png", "instruction": "Which?", "answer": "Left."}),
        json!({"image": "b.jpg", "instruction": "What?", "answer": "A cup."}),
        json!({"image": "c.jpg", "instruction": "Gone?", "answer": "Yes."}),
    ];
    fs::write(path("table.jsonl"), lines.map(|line| line.to_string()).join("\n")).unwrap();
    let images = path("photos");
    let run = |table: &str, more: &[&str]| {
        let table = path(table);
        let mut arguments = vec!["--annotations", &table, "--images", &images, "--name", "MINE"];
        arguments.extend(more);
        import("own", place.path(), &arguments)
    };
    let report = run("table.csv", &["--to", "json"]).json();
    assert_eq!((&report["written"]["records"], &report["written"]["images"]), (&json!(3), &json!(2)));
    let skip = &report["skipped"]["missing_image"];
    assert_eq!((&skip["count"], &skip["of"]), (&json!(1), &json!("items")));
    assert!(skip["examples"][0].as_str().unwrap().contains("table.csv line 5"), "{skip}");
    let out = place.path().join("out");
    let records = json_file(&out.join("MINE_instructions.json"));
    let expected = json!({
        "MINE_INS_000001": {"instruction": "How many?", "answer": "Two, or three.", "image_ids": ["MINE_IMG_a"], "rel_ins_ids": ["MINE_INS_000002"]},
        "MINE_INS_000002": {"instruction": "Which?", "answer": "Left.", "image_ids": ["MINE_IMG_a"], "rel_ins_ids": ["MINE_INS_000001"]},
        "MINE_INS_000003": {"instruction": "What?", "answer": "A cup.", "image_ids": ["MINE_IMG_b"], "rel_ins_ids": []},
    });
    assert_eq!(records["data"], expected);
    let table = ImageTable::open(&out.join("MINE.json"), 0).unwrap();
    assert_eq!(
        table.encoded("MINE_IMG_b").unwrap().unwrap(),
        fs::read(place.path().join("photos/b.jpg")).unwrap()
    );
    // There already, and replaced when asked to.
    run("table.jsonl", &["--to", "json"]).error(&["there already", "--overwrite"]);
    let before = files(&out);
    run("table.jsonl", &["--to", "json", "--overwrite"]).success();
    assert_eq!(files(&out), before);
    // The form otter-dataset.
    fs::remove_dir_all(&out).unwrap();
    run("table.csv", &[]).success();
    let records = InstructionTable::open(&out).unwrap();
    assert_eq!((records.len(), records.id(2).unwrap().as_ref()), (3, "MINE_INS_000003"));
    // Strict.
    fs::remove_dir_all(&out).unwrap();
    let message = run("table.csv", &["--strict"]).error(&["line 5", "[missing_image]"]);
    assert!(!out.exists(), "{message}");
}

/// A table with one picture, and what else is asked for.
fn table(place: &Path, text: &[u8], more: &[&str]) -> Run {
    picture(&place.join("photos/a.png"), 10);
    fs::write(place.join("table.csv"), text).unwrap();
    let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let (table, images) = (path("table.csv"), path("photos"));
    let mut arguments = vec!["--annotations", &table, "--images", &images, "--name", "T", "--overwrite"];
    arguments.extend(more);
    import("own", place, &arguments)
}

#[test]
fn nothing_used_is_no_success_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let run = table(place.path(), b"image,instruction,answer\nA.PNG,What?,x\nB.PNG,What?,y\n", &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    for part in ["none of the 2 items could be used", "[missing_image]", "line 2", "there is a.png"] {
        assert!(run.stderr.contains(part), "no '{part}' in {}", run.stderr);
    }
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&told["outcome"], &told["skipped"]["missing_image"]["count"]),
        (&json!("nothing_used"), &json!(2))
    );
    assert!(!place.path().join("out/manifest.json").exists());
    // A part of it used: success, and standard error says what is gone, for --json too.
    let run = table(place.path(), b"image,instruction,answer,split\na.png,What?,x,1\nB.PNG,What?,y,2\n", &[]);
    for part in ["warning: left out: 1 items [missing_image]", "B.PNG", "warning: columns not used: split"] {
        assert!(run.stderr.contains(part), "no '{part}' in {}", run.stderr);
    }
    assert_eq!(run.json()["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn byte_order_marks_are_passed_over_and_utf_16_is_named() {
    let place = tempfile::tempdir().unwrap();
    let text = "image,instruction,answer\r\na.png,What?,A cup.\r\n";
    let report = table(place.path(), format!("\u{feff}{text}").as_bytes(), &[]).json();
    assert_eq!((&report["used"], &report["warnings"]), (&json!(1), &json!([])));
    let wide: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    table(place.path(), &wide, &[]).error(&["table.csv", "UTF-16", "iconv -f UTF-16 -t UTF-8"]);
}

#[test]
fn languages_of_a_table_are_kept_told_and_chosen_in_every_form() {
    let place = tempfile::tempdir().unwrap();
    let text = "image,instruction,answer,language\na.png,\u{427}\u{442}\u{43e} \u{44d}\u{442}\u{43e}?,OK.,ru\n\
                a.png,OK?,OK.,de\na.png,OK?,No.,pt\na.png,What is this?,A cup.,\n";
    table(place.path(), text.as_bytes(), &[]).success();
    let mut source = place.path().join("out");
    for form in ["json", "parquet", "folder", "tar", "otter-dataset"] {
        let out = place.path().join(form);
        otter(&arguments!["data", "convert", source, "--to", form, "--out", out, "--group", "IMAGE_TEXT"])
            .success();
        source = if form == "otter-dataset" { out } else { out.join("T_instructions.json") };
        let report = otter(&arguments!["data", "stats", source, "--group", "TEXT_ONLY", "--json"]).json();
        let rows = report["languages"].as_array().unwrap().iter();
        let rows: BTreeMap<&str, [u64; 2]> = rows
            .map(|row| {
                (
                    row["name"].as_str().unwrap(),
                    ["pairs", "language_told"].map(|key| row[key].as_u64().unwrap()),
                )
            })
            .collect();
        let expected = [("de", [1, 1]), ("en", [1, 0]), ("pt", [1, 1]), ("ru", [1, 1])];
        assert_eq!(rows, expected.into_iter().collect(), "{form}");
        assert_eq!(report["languages_from"], "told and guessed");
    }
    // A list chooses among them.
    let list = place.path().join("list.yaml");
    fs::write(&list, "\u{feff}IMAGE_TEXT:\n  T: {mimicit_path: out, languages: [pt, de]}\n").unwrap();
    let model = crate::common::golden("data/tokenizer_llama");
    let show = |index: &str| {
        otter(&arguments!["data", "show", "--config", list, "--model", model, "--index", index, "--json"])
    };
    assert_eq!(show("0").json()["id"], "T_INS_000002");
    assert_eq!(show("1").json()["id"], "T_INS_000003");
    show("2").error(&["has 2"]);
}

#[test]
fn rows_that_are_only_examples_stay_so_in_every_form() {
    let place = tempfile::tempdir().unwrap();
    let text = "image,instruction,answer,id,context\na.png,What?,wug,T_INS_1,\na.png,Which?,dax,T_INS_2,\na.png,And?,wug,T_INS_3,T_INS_1;T_INS_2\n";
    let report = table(place.path(), text.as_bytes(), &[]).json();
    assert_eq!((&report["example_only"], &report["written"]["contexts"]), (&json!(2), &json!(1)));
    let samples = |report: &Value| {
        ["samples", "usable_samples", "example_only", "errors"].map(|key| report[key].as_u64().unwrap())
    };
    let out = place.path().join("out");
    let verified = otter(&arguments!["data", "verify", out, "--json"]).json();
    assert_eq!(samples(&verified), [1, 1, 2, 0]);
    // Each example shows its own picture.
    let manifest = json_file(&out.join("manifest.json"));
    assert_eq!(manifest["group"], "IMAGE_TEXT_IN_CONTEXT");
    // Without its train file the marks of the records say the same.
    let json = place.path().join("json");
    otter(&arguments!["data", "convert", out, "--to", "json", "--out", json]).success();
    let (records, images) = (json.join("T_instructions.json"), json.join("T.json"));
    let verified = otter(&arguments!["data", "verify", records, "--images", images, "--json"]).json();
    assert_eq!(samples(&verified), [1, 1, 2, 0]);
    // A repaired copy keeps them; retrieval asks no examples for them.
    let fixed = place.path().join("fixed");
    otter(&arguments!["data", "verify", records, "--images", images, "--fix", "--out", fixed]).success();
    let verified = otter(&arguments!["data", "verify", fixed.join("data.yaml"), "--json"]).json();
    assert_eq!(samples(&verified), [1, 1, 2, 0]);
    let train = place.path().join("train.json");
    let report = otter(&arguments![
        "data",
        "retrieve",
        records,
        "--by",
        "random",
        "--k",
        "1",
        "--allow-same-image",
        "--out",
        train,
        "--json"
    ])
    .json();
    assert_eq!((&report["report"]["written"], &report["report"]["example_only"]), (&json!(1), &json!(2)));
    assert!(json_file(&train)["T_INS_3"].as_array().unwrap().len() == 1);
    // Every row a sample, when asked for.
    let report = table(place.path(), text.as_bytes(), &["--all-rows"]).json();
    assert_eq!((&report["example_only"], &report["written"]["contexts"]), (&json!(0), &json!(3)));
}

#[test]
fn wrong_arguments_are_named() {
    let place = tempfile::tempdir().unwrap();
    let table = place.path().join("table.csv").to_str().unwrap().to_owned();
    fs::write(&table, "image,question,answer\n").unwrap();
    import("own", place.path(), &["--annotations", &table]).error(&[
        "table.csv",
        "line 1",
        "`instruction`",
        "question",
    ]);
    import("own", place.path(), &["--annotations", &table, "--to", "zip"]).usage("otter-dataset, json");
    import("own", place.path(), &["--annotations", &table, "--fps", "1", "--frames", "3"])
        .usage("cannot be used with");
    import("sd", place.path(), &["--annotations", &table]).error(&["--images DIR"]);
    import("own", place.path(), &["--annotations", &table, "--images", "/no/such"])
        .error(&["/no/such", "no such folder"]);
    import("own", place.path(), &["--annotations", &table, "--name", "a/b"]).error(&["--name", "letters"]);
    fs::write(&table, "image,instruction,answer\n").unwrap();
    import("own", place.path(), &["--annotations", &table, "--fps", "0"]).error(&["0 frames a second"]);
    import("own", place.path(), &["--annotations", &table, "--timeout", "0"]).error(&["--timeout"]);
}

#[test]
fn pairs_of_pictures_as_the_original_wrote_them() {
    let place = tempfile::tempdir().unwrap();
    for (name, shade) in [("10.png", 1), ("10_2.png", 2), ("11.jpg", 3), ("11_2.jpg", 4)] {
        picture(&place.path().join("images").join(name), shade);
    }
    let annotations = place.path().join("train.json");
    fs::write(
        &annotations,
        r#"[{"img_id": "11", "sentences": ["a car"]}, {"img_id": "10", "sentences": ["no", "yes"]}]"#,
    )
    .unwrap();
    let images = place.path().join("images");
    let arguments = [
        "--annotations",
        annotations.to_str().unwrap(),
        "--images",
        images.to_str().unwrap(),
        "--to",
        "json",
        "--image-size",
        "224",
    ];
    import("sd", place.path(), &arguments).success();
    let images = json_file(&place.path().join("out/SD.json"));
    let ids: Vec<&String> = images.as_object().unwrap().keys().collect();
    assert_eq!(ids, ["SD_IMG_00011_1", "SD_IMG_00011_2", "SD_IMG_00010_1", "SD_IMG_00010_2"]);
    for base64 in images.as_object().unwrap().values() {
        // 224 x 224 in the head of a PNG.
        assert!(base64.as_str().unwrap().starts_with("iVBORw0KGgoAAAANSUhEUgAAAOAAAADg"), "{base64}");
    }
    let records = json_file(&place.path().join("out/SD_instructions.json"));
    assert_eq!(records["data"]["SD_INS_000002"]["answer"], "no yes");
}

/// A stand-in for ffmpeg: two pictures of every video, slowly.
#[cfg(unix)]
fn fake_ffmpeg(place: &Path, delay: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let script = place.join("ffmpeg");
    let text = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = -version ]; then echo 'ffmpeg version 6.1-fake'; exit 0; fi\n\
         case \"$*\" in *-map*) ;; *) echo '[info]   Duration: 00:00:02.00, start: 0.0' >&2; exit 1 ;; esac\n\
         case \"$*\" in *bad.mp4*) echo '[error] Invalid data found' >&2; exit 1 ;; esac\n\
         sleep {delay}\n\
         for n in 0 1; do\n\
         echo \"[Parsed_showinfo_0 @ 0x1] [info] n: $n pts: $n pts_time:$n\" >&2\n\
         echo \"[Parsed_showinfo_2 @ 0x1] [info] n: $n pts: $n pts_time:$n\" >&2\n\
         printf 'P6 2 2 255 abcdefghijk%s' $n\n\
         done\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    while Command::new(&script).arg("-version").output().is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    script
}

#[cfg(unix)]
#[test]
fn a_killed_import_of_videos_goes_on_to_the_same_result() {
    let place = tempfile::tempdir().unwrap();
    let videos = place.path().join("videos");
    fs::create_dir(&videos).unwrap();
    let mut entries = serde_json::Map::new();
    for number in 0..14 {
        let name = if number == 5 { "bad".to_owned() } else { format!("v_{number:02}") };
        fs::write(videos.join(format!("{name}.mp4")), "video").unwrap();
        entries.insert(name, json!({"duration": 2, "timestamps": [[0, 2]], "sentences": ["Something."]}));
    }
    let annotations = place.path().join("train.json");
    fs::write(&annotations, Value::Object(entries).to_string()).unwrap();
    let ffmpeg = fake_ffmpeg(place.path(), "0.2");
    let arguments = |out: &str| {
        arguments![
            "data",
            "import",
            "dc",
            "--annotations",
            annotations,
            "--videos",
            videos,
            "--ffmpeg",
            ffmpeg,
            "--jobs",
            "2",
            "--json",
            "--out",
            place.path().join(out),
        ]
    };
    let whole = otter(&arguments("whole")).json();
    assert_eq!((&whole["written"]["records"], &whole["used"]), (&json!(13), &json!(13)));
    assert!(whole["skipped"]["broken_video"]["examples"][0].as_str().unwrap().contains("Invalid data found"));
    let expected = files(&place.path().join("whole"));

    // Killed: what stands in the journal is at most a second old.
    let mut child = Command::new(env!("CARGO_BIN_EXE_otter"))
        .args(arguments("killed"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let items = place.path().join("killed.import/items.bin");
    let start = Instant::now();
    while fs::metadata(&items).map_or(0, |file| file.len()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing reached the journal");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.path().join("killed").exists());
    let report = otter(&arguments("killed")).json();
    assert_eq!(report["used"], 13);
    assert_eq!(files(&place.path().join("killed")), expected);
    assert!(!items.exists());

    // Stopped with Ctrl-C: it says so, and goes on.
    let child = Command::new(env!("CARGO_BIN_EXE_otter"))
        .args(arguments("stopped"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let journal = place.path().join("stopped.import/plan.json");
    while !journal.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the same command goes on"), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["outcome"], "interrupted");
    otter(&arguments("stopped")).success();
    assert_eq!(files(&place.path().join("stopped")), expected);
}

/// What is written anew has no transparency: it is shown as asked, never dropped unsaid.
#[test]
fn transparent_pictures_are_shown_as_asked() {
    let place = tempfile::tempdir().unwrap();
    let photos = place.path().join("photos");
    fs::create_dir(&photos).unwrap();
    let glass = image::RgbaImage::from_pixel(12, 12, image::Rgba([200, 10, 10, 0]));
    glass.save(photos.join("glass.png")).unwrap();
    glass.save(photos.join("glass2.webp")).unwrap();
    picture(&photos.join("plain.png"), 40);
    let table = place.path().join("table.csv");
    fs::write(
        &table,
        "image,instruction,answer\nglass.png,What?,A.\nglass2.webp,What?,B.\nplain.png,What?,C.\n",
    )
    .unwrap();
    let (table, photos) = (table.to_str().unwrap().to_owned(), photos.to_str().unwrap().to_owned());
    for (options, kept, expected, note) in [
        (&[][..], [200, 10, 10, 0], [255, 255, 255], "alpha_blended"),
        (&["--alpha", "black", "--max-side", "8"], [0, 0, 0, 255], [0, 0, 0], "alpha_blended"),
        (&["--alpha", "drop", "--image-size", "8"], [200, 10, 10, 255], [200, 10, 10], "alpha_dropped"),
    ] {
        let mut arguments =
            vec!["--annotations", &table, "--images", &photos, "--to", "folder", "--overwrite"];
        arguments.extend(options);
        let run = import("own", place.path(), &arguments).success();
        assert_eq!(
            run.stderr.matches("warning: 2 images are transparent in part").count(),
            1,
            "{}",
            run.stderr
        );
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(report["image_notes"][note]["count"], 2, "{report}");
        let written = files(&place.path().join("out"));
        let pixel = |name: &str| {
            let (_, bytes) = written.iter().find(|(file, _)| file.to_str().unwrap().contains(name)).unwrap();
            image::load_from_memory(bytes).unwrap().to_rgba8().get_pixel(3, 3).0
        };
        assert_eq!((pixel("glass."), pixel("glass2")), (kept, [expected[0], expected[1], expected[2], 255]));
    }
}

/// One signal, whatever sent it, finishes the items under way; the second ends the command.
#[cfg(unix)]
#[test]
fn a_signal_stops_and_a_second_one_ends_at_once() {
    let place = tempfile::tempdir().unwrap();
    let videos = place.path().join("videos");
    fs::create_dir(&videos).unwrap();
    let mut entries = serde_json::Map::new();
    // More than are done before the slowest signal comes.
    for name in ["v_a", "v_b", "v_c", "v_d", "v_e", "v_f"] {
        fs::write(videos.join(format!("{name}.mp4")), "video").unwrap();
        entries
            .insert(name.into(), json!({"duration": 2, "timestamps": [[0, 2]], "sentences": ["Something."]}));
    }
    let annotations = place.path().join("train.json");
    fs::write(&annotations, Value::Object(entries).to_string()).unwrap();
    let stop = |out: &str, seconds: &str, signals: &[&[&str]]| {
        let tool = place.path().join(seconds);
        fs::create_dir_all(&tool).unwrap();
        let arguments = arguments![
            "data",
            "import",
            "dc",
            "--annotations",
            annotations,
            "--videos",
            videos,
            "--jobs",
            "1",
            "--ffmpeg",
            fake_ffmpeg(&tool, seconds),
            "--out",
            place.path().join(out),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_otter"));
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !place.path().join(out).with_extension("import").join("plan.json").exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        for (number, group) in signals.iter().enumerate() {
            std::thread::sleep(Duration::from_millis(if number == 0 { 0 } else { 600 }));
            for signal in *group {
                let sent = Command::new("kill").args([*signal, &child.id().to_string()]).status();
                assert!(sent.unwrap().success(), "{signals:?}: it ended before");
            }
        }
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), start.elapsed())
    };
    let (code, told, _) = stop("once", "1", &[&["-TERM"]]);
    assert_eq!(code, Some(143), "{told}");
    assert!(
        told.contains("received SIGTERM: stopping") && told.contains("the same command goes on"),
        "{told}"
    );
    // As `timeout` sends it: to the process, and at once to its group.
    let (code, told, _) = stop("twice", "1", &[&["-TERM", "-TERM"]]);
    assert_eq!((code, told.contains("the same command goes on")), (Some(143), true), "{told}");
    let (code, told, _) = stop("closed", "1", &[&["-HUP"], &["-HUP"]]);
    assert_eq!((code, told.contains("the same command goes on")), (Some(129), true), "{told}");
    for (out, signals, status) in [
        ("terminated", ["-TERM", "-TERM"], 143),
        ("interrupted", ["-INT", "-INT"], 130),
        ("both", ["-HUP", "-TERM"], 143),
    ] {
        let (code, told, time) = stop(out, "30", &[&signals[..1], &signals[1..]]);
        assert_eq!(code, Some(status), "{told}");
        assert!(time < Duration::from_secs(15) && !told.contains("the same command"), "{time:?}: {told}");
    }
}
