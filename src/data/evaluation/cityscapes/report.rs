//! The table and the JSON files of the evaluation, in the original's form.

use super::average_precision::{ApMatrix, MIN_REGION_SIZE};
use super::matching::{ImageMatches, Instance, Pairing};

/// Average precision over the overlaps 0.5 to 0.95, at 0.5 and at 0.75.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassAverage {
    /// Over all overlaps.
    pub ap: f64,
    /// At 0.5.
    pub ap50: f64,
    /// At 0.75.
    pub ap75: f64,
}

/// Averages over the classes that occur, and of every class (nan for absent ones).
#[derive(Clone, Debug, PartialEq)]
pub struct Averages {
    /// Over the classes.
    pub all: ClassAverage,
    /// By label, the background included.
    pub classes: Vec<(String, ClassAverage)>,
}

/// The positions of the overlaps 0.5 and 0.75.
const AT_50: usize = 0;
const AT_75: usize = 5;

fn mean_of_numbers(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.filter(|v| !v.is_nan()).collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// Averages of a matrix whose rows are the classes `names`.
pub fn averages(matrix: &ApMatrix, names: &[String]) -> Averages {
    let all = ClassAverage {
        ap: mean_of_numbers(matrix.ap.iter().flatten().copied()),
        ap50: mean_of_numbers(matrix.ap.iter().map(|row| row[AT_50])),
        ap75: mean_of_numbers(matrix.ap.iter().map(|row| row[AT_75])),
    };
    let class = |(name, row): (&String, &Vec<f64>)| {
        let ap = row.iter().sum::<f64>() / row.len() as f64;
        (name.clone(), ClassAverage { ap, ap50: row[AT_50], ap75: row[AT_75] })
    };
    Averages { all, classes: names.iter().zip(&matrix.ap).map(class).collect() }
}

const PLAIN: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";

/// From red for the worst to green for the best.
fn colour(value: f64) -> &'static str {
    match value {
        v if v.is_nan() => PLAIN,
        v if v < 0.2 => "\x1b[31;1m",
        v if v < 0.4 => "\x1b[33;1m",
        v if v < 0.6 => "\x1b[34;1m",
        v if v < 0.8 => "\x1b[36;1m",
        _ => "\x1b[32;1m",
    }
}

/// The table, with a colour for every number.
pub fn print_results(averages: &Averages) -> String {
    let rule = "#".repeat(65);
    let cell = |value: f64| {
        let number = if value.is_nan() { "nan".to_owned() } else { format!("{value:.3}") };
        format!("{}{number:>15}", colour(value))
    };
    let line = |name: &str, average: &ClassAverage| {
        format!("{name:<15}:{}{}{}{PLAIN}\n", cell(average.ap), cell(average.ap50), cell(average.ap75))
    };
    let mut text = format!("\n{rule}\n");
    text += &format!("{BOLD}{:<15}:{:>15}{:>15}{:>15}{PLAIN}\n{rule}\n", "what", "AP", "AP_50%", "AP_75%");
    for (name, average) in &averages.classes {
        text += &line(name, average);
    }
    text += &"-".repeat(65);
    text + "\n" + &line("average", &averages.all) + "\n"
}

/// JSON as Python writes it with sorted keys and an indentation of four, where nan is a number.
enum Json {
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    fn map<const N: usize>(entries: [(&str, Json); N]) -> Json {
        Json::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn write(&self, out: &mut String, indent: usize) {
        let items: Vec<(Option<&str>, &Json)> = match self {
            Json::Integer(value) => return *out += &value.to_string(),
            Json::Float(value) if value.is_nan() => return *out += "NaN",
            Json::Float(value) => return *out += &format!("{value:?}"),
            Json::Text(value) => return *out += &serde_json::Value::from(value.as_str()).to_string(),
            Json::List(list) => list.iter().map(|item| (None, item)).collect(),
            Json::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().map(|(key, value)| (Some(key.as_str()), value)).collect();
                entries.sort_by_key(|(key, _)| *key);
                entries
            }
        };
        let (open, close) = if matches!(self, Json::List(_)) { ('[', ']') } else { ('{', '}') };
        out.push(open);
        for (i, (key, value)) in items.iter().enumerate() {
            *out += if i > 0 { ",\n" } else { "\n" };
            *out += &" ".repeat(4 * (indent + 1));
            if let Some(key) = key {
                *out += &format!("{}: ", serde_json::Value::from(*key));
            }
            value.write(out, indent + 1);
        }
        if !items.is_empty() {
            *out += "\n";
            *out += &" ".repeat(4 * indent);
        }
        out.push(close);
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }
}

/// `boxResult.json` or `maskResult.json`.
pub(super) fn result_json(averages: &Averages, matrix: &ApMatrix, names: &[String]) -> String {
    let floats = |values: &[f64]| Json::List(values.iter().map(|&v| Json::Float(v)).collect());
    let class = |(name, average): &(String, ClassAverage)| {
        let ClassAverage { ap, ap50, ap75 } = *average;
        let entries = [("ap", Json::Float(ap)), ("ap50%", Json::Float(ap50)), ("ap75%", Json::Float(ap75))];
        (name.clone(), Json::map(entries))
    };
    let overall = Json::map([
        ("allAp", Json::Float(averages.all.ap)),
        ("allAp50%", Json::Float(averages.all.ap50)),
        ("allAp75%", Json::Float(averages.all.ap75)),
        ("classes", Json::Map(averages.classes.iter().map(class).collect())),
    ]);
    let rows = Json::List(matrix.ap.iter().map(|row| floats(row)).collect());
    let json = Json::map([
        ("averages", overall),
        ("overlaps", floats(&matrix.overlaps)),
        ("minRegionSizes", Json::List(vec![Json::Integer(MIN_REGION_SIZE)])),
        ("instLabels", Json::List(names.iter().map(|n| Json::Text(n.clone())).collect())),
        ("resultApMatrix", Json::List(vec![rows])),
    ]);
    json.text()
}

fn instance_entries(instance: &Instance, id: &str) -> Vec<(String, Json)> {
    let corners = instance.corners.iter().map(|&c| Json::Integer(c)).collect();
    vec![
        ("labelID".into(), Json::Integer(instance.label as i64)),
        (id.into(), Json::Integer(instance.id as i64)),
        ("boxArea".into(), Json::Integer(instance.box_area)),
        ("pixelCount".into(), Json::Integer(instance.pixel_count)),
        ("box".into(), Json::List(corners)),
    ]
}

fn truth_entries(truth: &Instance) -> Vec<(String, Json)> {
    instance_entries(truth, "instID")
}

fn prediction_entries(prediction: &Instance, image: usize) -> Vec<(String, Json)> {
    let mut entries = instance_entries(prediction, "predID");
    entries.push(("imgName".into(), Json::Integer(image as i64)));
    entries.push(("confidence".into(), Json::Float(prediction.confidence)));
    entries
}

fn paired(mut entries: Vec<(String, Json)>, pairing: &Pairing) -> Json {
    entries.push(("boxIntersection".into(), Json::Integer(pairing.box_intersection)));
    entries.push(("maskIntersection".into(), Json::Integer(pairing.mask_intersection)));
    Json::Map(entries)
}

/// `matches.json`: for every image the instances by class, each with what it overlaps.
pub(super) fn matches_json(images: &[ImageMatches], names: &[String]) -> String {
    let image_json = |(i, image): (usize, &ImageMatches)| {
        let truth = |(g, truth): (usize, &Instance)| {
            let found = image.pairings.iter().filter(|p| p.ground_truth == g);
            let found = found.map(|p| paired(prediction_entries(&image.predictions[p.prediction], i), p));
            let mut entries = truth_entries(truth);
            entries.push(("matchedPred".into(), Json::List(found.collect())));
            (truth.label, Json::Map(entries))
        };
        let prediction = |(at, prediction): (usize, &Instance)| {
            let found = image.pairings.iter().filter(|p| p.prediction == at);
            let found = found.map(|p| paired(truth_entries(&image.ground_truths[p.ground_truth]), p));
            let mut entries = prediction_entries(prediction, i);
            entries.push(("matchedGt".into(), Json::List(found.collect())));
            (prediction.label, Json::Map(entries))
        };
        Json::map([
            ("groundTruth", by_class(image.ground_truths.iter().enumerate().map(truth), names)),
            ("prediction", by_class(image.predictions.iter().enumerate().map(prediction), names)),
        ])
    };
    Json::List(images.iter().enumerate().map(image_json).collect()).text()
}

fn by_class(instances: impl Iterator<Item = (usize, Json)>, names: &[String]) -> Json {
    let mut classes: Vec<(String, Vec<Json>)> = names.iter().map(|name| (name.clone(), Vec::new())).collect();
    for (label, json) in instances {
        classes[label].1.push(json);
    }
    Json::Map(classes.into_iter().map(|(name, list)| (name, Json::List(list))).collect())
}
