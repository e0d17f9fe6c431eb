//! Saving and loading whole checkpoints, and what does not fit.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::*;
use crate::config::Config;
use crate::layers::parameters::{Init, Parameters};
use crate::solver::sgd::GroupRates;
use crate::solver::{Sgd, WarmupMethod, WarmupMultiStepLr};

/// A table of constant parameters.
fn model(shapes: &[(&str, &[i64])], value: f64) -> Parameters {
    let parameters = Parameters::new(Device::Cpu);
    for (name, shape) in shapes {
        let _ = parameters.root().parameter(name, shape, Init::Const(value));
    }
    parameters
}

const SMALL: [(&str, &[i64]); 3] =
    [("backbone.w", &[2, 3]), ("head.cls_score.weight", &[5, 2]), ("head.cls_score.bias", &[5])];

fn solver(parameters: &Parameters) -> (Sgd, WarmupMultiStepLr) {
    let rates = GroupRates { base_lr: 0.1, bias_lr_factor: 2.0, weight_decay: 0.01, weight_decay_bias: 0.0 };
    let mut optimizer = Sgd::new(rates.groups(parameters.trainable()), 0.9);
    let scheduler = WarmupMultiStepLr::new(&mut optimizer, &[3], 0.1, 0.5, 2, WarmupMethod::Linear).unwrap();
    (optimizer, scheduler)
}

fn train(parameters: &Parameters, optimizer: &mut Sgd, scheduler: &mut WarmupMultiStepLr) {
    let terms: Vec<Tensor> = parameters.trainable().iter().map(|(_, t)| t.square().sum(Kind::Float)).collect();
    optimizer.zero_grad();
    Tensor::stack(&terms, 0).sum(Kind::Float).backward();
    optimizer.step();
    scheduler.step(optimizer);
}

fn checkpointer(parameters: &Parameters, folder: Option<&Path>) -> DetectronCheckpointer {
    DetectronCheckpointer::new(&Config::default(), parameters, folder)
}

fn contents(optimizer: &Sgd, scheduler: &WarmupMultiStepLr, iteration: i64) -> Contents {
    let mut training_state = Dict::new();
    training_state.insert("seed", 7);
    Contents {
        optimizer: Some(optimizer.state_dict()),
        scheduler: Some(scheduler.state_dict()),
        iteration: Some(iteration),
        training_state: Some(training_state),
    }
}

#[test]
fn a_run_continued_equals_one_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let whole = model(&SMALL, 1.0);
    let (mut optimizer, mut scheduler) = solver(&whole);
    for _ in 0..2 {
        train(&whole, &mut optimizer, &mut scheduler);
    }
    checkpointer(&whole, Some(folder.path())).save("model_0000002", &contents(&optimizer, &scheduler, 2)).unwrap();
    let tag = fs::read_to_string(folder.path().join("last_checkpoint")).unwrap();
    assert_eq!(tag, folder.path().join("model_0000002.pth").to_str().unwrap());
    for _ in 0..3 {
        train(&whole, &mut optimizer, &mut scheduler);
    }

    let again = model(&SMALL, 0.0);
    let loaded = checkpointer(&again, Some(folder.path())).load(Some("/not/looked/at.pth"), true).unwrap();
    assert_eq!(loaded.iteration, Some(2));
    assert_eq!(loaded.training_state.unwrap().get("seed").unwrap().as_int(), Some(7));
    let (mut optimizer, mut scheduler) = solver(&again);
    optimizer.load_state_dict(&loaded.optimizer.unwrap()).unwrap();
    scheduler.load_state_dict(&loaded.scheduler.unwrap()).unwrap();
    for _ in 0..3 {
        train(&again, &mut optimizer, &mut scheduler);
    }
    for (one, other) in whole.state().iter().zip(again.state()) {
        assert!(one.tensor.equal(&other.tensor), "{}", one.name);
    }
}

#[test]
fn the_state_of_another_iteration_is_outdated() {
    let folder = tempfile::tempdir().unwrap();
    let parameters = model(&SMALL, 1.0);
    let (optimizer, scheduler) = solver(&parameters);
    let mut snapshot = ModelState::new(&parameters).snapshot(&contents(&optimizer, &scheduler, 2)).unwrap();
    // What the Python original does: it carries our key along.
    let Value::Dict(dict) = &mut snapshot else { panic!("a dictionary") };
    dict.remove("iteration");
    dict.insert("iteration", 9);
    let file = save_snapshot(folder.path(), "model_0000009", &snapshot).unwrap();
    let loaded = checkpointer(&parameters, None).load_file(&file).unwrap();
    assert_eq!((loaded.iteration, loaded.training_state.is_none()), (Some(9), true));
}

#[test]
fn a_moved_run_finds_its_checkpoint_and_a_lost_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let parameters = model(&SMALL, 1.0);
    let checkpointer = checkpointer(&parameters, Some(folder.path()));
    checkpointer.save("model_final", &Contents::default()).unwrap();
    fs::write(folder.path().join("last_checkpoint"), "./elsewhere/model_final.pth\n").unwrap();
    assert_eq!(checkpointer.load(None, true).unwrap().file, Some(folder.path().join("model_final.pth")));
    fs::write(folder.path().join("last_checkpoint"), "lost.pth").unwrap();
    let error = checkpointer.load(None, true).unwrap_err().to_string();
    assert!(error.contains("last_checkpoint") && error.contains("lost.pth"), "{error}");
    assert!(checkpointer.load(None, false).unwrap().file.is_none());
}

#[test]
fn a_missing_weight_names_the_override() {
    let parameters = model(&SMALL, 1.0);
    let weight = "/home/shgao/.torch/models/res2net50_26w_4s-06e79181.pth";
    let error = checkpointer(&parameters, None).load(Some(weight), true).unwrap_err().to_string();
    assert!(error.contains("MODEL.WEIGHT /path/to/res2net50_26w_4s-06e79181.pth"), "{error}");
    assert!(error.contains("author's machine") && error.contains(weight), "{error}");
    let error = checkpointer(&parameters, None).load(Some("catalog://ImageNetPretrained/R-51"), true).unwrap_err();
    assert!(format!("{error:#}").contains("MSRA/R-50"), "{error:#}");
}

#[test]
fn another_class_count_skips_the_layers_and_their_momentum() {
    let folder = tempfile::tempdir().unwrap();
    let old = model(&SMALL, 1.0);
    let (mut optimizer, mut scheduler) = solver(&old);
    train(&old, &mut optimizer, &mut scheduler);
    checkpointer(&old, Some(folder.path())).save("model_final", &contents(&optimizer, &scheduler, 1)).unwrap();

    let shapes: [(&str, &[i64]); 3] = [SMALL[0], ("head.cls_score.weight", &[3, 2]), ("head.cls_score.bias", &[3])];
    let new = model(&shapes, 7.0);
    let weight = folder.path().join("model_final.pth").display().to_string();
    let loaded = checkpointer(&new, Some(&folder.path().join("new"))).load(Some(&weight), true).unwrap();
    let report = loaded.report.unwrap();
    assert_eq!(report.skipped_names(), ["head.cls_score.weight", "head.cls_score.bias"]);
    assert!(report.table().contains("head.cls_score.weight  file [5, 2], model [3, 2]"), "{}", report.table());
    assert_eq!(new.get("head.cls_score.bias").unwrap().double_value(&[0]), 7.0);
    assert!(new.get("backbone.w").unwrap().equal(&old.get("backbone.w").unwrap()));
    let (mut optimizer, _) = solver(&new);
    let state = loaded.optimizer.unwrap();
    assert!(optimizer.load_state_dict(&state).unwrap_err().to_string().contains("head.cls_score.weight"));
    optimizer.load_state_dict_without(&state, &report.initial_names()).unwrap();
    let known: Vec<bool> = (0..3).map(|i| optimizer.momentum_buffer(i).is_some()).collect();
    assert_eq!(known, [true, false, false]);

    let strict = model(&shapes, 7.0);
    let error = checkpointer(&strict, None).strict(true).load(Some(&weight), true).unwrap_err();
    assert!(format!("{error:#}").contains("file [5, 2], model [3, 2]"), "{error:#}");
    assert_eq!(strict.get("backbone.w").unwrap().double_value(&[0, 0]), 7.0, "nothing was loaded");
}

#[test]
fn a_run_does_not_go_on_with_another_model() {
    let folder = tempfile::tempdir().unwrap();
    checkpointer(&model(&SMALL, 1.0), Some(folder.path())).save("model_final", &Contents::default()).unwrap();
    let classes: [(&str, &[i64]); 2] = [SMALL[0], ("head.cls_score.weight", &[3, 2])];
    let more: [(&str, &[i64]); 4] = [SMALL[0], SMALL[1], SMALL[2], ("mask.weight", &[1])];
    let backbone: [(&str, &[i64]); 1] = [("encoder.layers.0", &[2])];
    for (shapes, said) in [
        (&classes[..], "head.cls_score.weight  file [5, 2], model [3, 2]"),
        (&more[..], "the file lacks 1 parameters of the model, nothing was loaded: mask.weight"),
        (&backbone[..], "none of its names fits"),
    ] {
        let other = model(shapes, 7.0);
        let error = format!("{:#}", checkpointer(&other, Some(folder.path())).load(None, true).unwrap_err());
        assert!(error.contains(said) && error.contains("model_final.pth"), "{error}");
        assert!(error.contains("choose another OUTPUT_DIR and give the file as MODEL.WEIGHT"), "{error}");
        assert!(other.state().iter().all(|entry| entry.tensor.min().double_value(&[]) == 7.0), "something was loaded");
    }
    // A part less is no hindrance: the file has everything that the model needs.
    let less = model(&SMALL[..2], 7.0);
    assert!(checkpointer(&less, Some(folder.path())).load(None, true).unwrap().resumed);
}

/// Sizes and places in the archive beyond 32 bits; the zeros take no room on the disk.
#[test]
fn files_over_4_gb_are_written_and_read() {
    const LEN: usize = (1 << 32) + (1 << 20);
    let mut dict = Dict::new();
    let zeros = TensorData::contiguous(Dtype::UInt8, vec![LEN as i64], Buffer::new(Zeros::new(LEN))).unwrap();
    dict.insert("zeros", zeros);
    let values = Tensor::from_slice(&[0.5f32, -2.0, 1e30]);
    dict.insert("values", &values);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.pth");
    let mut file = Sparse(fs::File::create(&path).unwrap());
    pickle::write_torch(&mut file, "large", &Value::Dict(dict)).unwrap();
    drop(file);

    let back = read_file(&path).unwrap();
    let find = |name: &str| back.as_dict().unwrap().get(name).unwrap().as_tensor().unwrap();
    assert_eq!(to_tensor(find("values")).unwrap(), values);
    assert_eq!((find("zeros").shape(), find("zeros").numel()), (&[LEN as i64][..], LEN));
    assert_eq!(find("zeros").bytes().unwrap()[LEN - 1], 0);
    let cut = fs::metadata(&path).unwrap().len() - 1;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
    assert!(format!("{:#}", read_file(&path).unwrap_err()).contains("large.pth"));
}

/// A pickle of Python 2 ends at arrays of 2 GB, protocol 3 at 4 GB.
#[test]
fn arrays_over_2_gb_are_written_for_python_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.pkl");
    let values = Tensor::from_slice(&[0.5f32, -2.0, 1e30]);
    for (len, protocol) in [(1 << 31, 3), (1 << 32, 4)] {
        let zeros = TensorData::contiguous(Dtype::UInt8, vec![len as i64], Buffer::new(Zeros::new(len))).unwrap();
        let mut blobs = Dict::new();
        blobs.insert("fc6_w", zeros);
        blobs.insert("fc6_b", &values);
        let mut file = Sparse(fs::File::create(&path).unwrap());
        let python = pickle::write_pickle(&mut file, &Value::Dict(blobs), Python::Two).unwrap();
        drop(file);
        assert_eq!(python, Python::Three);
        let back = read_file(&path).unwrap();
        let find = |name: &str| back.as_dict().unwrap().get(name).unwrap().as_tensor().unwrap();
        assert_eq!((find("fc6_w").shape(), find("fc6_w").bytes().unwrap()[len - 1]), (&[len as i64][..], 0));
        assert_eq!(to_tensor(find("fc6_b")).unwrap(), values);
        let mut begin = [0; 2];
        fs::File::open(&path).unwrap().read_exact(&mut begin).unwrap();
        assert_eq!(begin, [0x80, protocol]);
    }
}

/// Zeros that take no memory either, nor a page fault every 4 KiB.
struct Zeros(memmap2::Mmap);

impl Zeros {
    fn new(len: usize) -> Self {
        let map = memmap2::MmapMut::map_anon(len).unwrap();
        // Without huge pages it only takes longer.
        let _ = map.advise(memmap2::Advice::HugePage);
        Self(map.make_read_only().unwrap())
    }
}

impl AsRef<[u8]> for Zeros {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl pickle::Source for Zeros {}

/// A file in which long runs of zeros are holes.
struct Sparse(fs::File);

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        let part = &bytes[..bytes.len().min(ZEROS.len())];
        if part == ZEROS {
            self.0.seek(SeekFrom::Current(part.len() as i64))?;
            return Ok(part.len());
        }
        self.0.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn another_architecture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let save = |parameters: &Parameters, name: &str| {
        checkpointer(parameters, Some(folder.path())).save(name, &Contents::default()).unwrap();
        folder.path().join(format!("{name}.pth"))
    };
    let error = |parameters: &Parameters, file: &Path| {
        format!("{:#}", checkpointer(parameters, None).load_file(file).map(|_| ()).unwrap_err())
    };
    let stranger = save(&model(&[("encoder.layers.0.weight", &[2])], 1.0), "stranger");
    let said = error(&model(&SMALL, 1.0), &stranger);
    assert!(said.contains("encoder.layers.0.weight") && said.contains("head.cls_score.bias"), "{said}");

    let res2net = |width: i64, splits: usize| {
        let parameters = Parameters::new(Device::Cpu);
        for split in 0..splits {
            let name = format!("backbone.body.layer1.0.convs.{split}.weight");
            let _ = parameters.root().parameter(&name, &[width, width, 3, 3], Init::Const(1.0));
        }
        parameters
    };
    let file = save(&res2net(14, 7), "res2net50_14w_8s");
    let said = error(&res2net(26, 3), &file);
    assert!(said.contains("MODEL.RESNETS.WIDTH_PER_GROUP 14 MODEL.RESNETS.SCALE 8"), "{said}");
}

#[test]
fn element_types_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [Kind::Half, Kind::BFloat16, Kind::Double] {
        let path = folder.path().join("model.pth");
        let mut state = Dict::ordered();
        let values = Tensor::from_slice(&[0.5f32, -2.0, 1.5, 4.0, -0.25, 8.0]).reshape([2, 3]);
        state.insert("w", &values.to_kind(kind));
        write_file(&path, &Value::Dict(state)).unwrap();
        let parameters = model(&[("backbone.w", &[2, 3])], 0.0);
        load_weights(&path, &parameters).unwrap();
        assert!(parameters.get("backbone.w").unwrap().equal(&values), "{kind:?}");
    }
}

#[test]
fn caffe2_files_go_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let names: [(&str, &[i64]); 10] = [
        ("backbone.body.stem.conv1.weight", &[4, 3, 7, 7]),
        ("backbone.body.stem.bn1.weight", &[4]),
        ("backbone.body.stem.bn1.bias", &[4]),
        ("backbone.body.stem.bn1.running_mean", &[4]),
        ("backbone.body.stem.bn1.running_var", &[4]),
        ("backbone.body.layer3.5.conv2.weight", &[2, 2, 3, 3]),
        ("backbone.fpn.fpn_inner4.bias", &[3]),
        ("rpn.head.cls_logits.weight", &[3, 2, 1, 1]),
        ("roi_heads.mask.feature_extractor.mask_fcn2.weight", &[2, 2]),
        ("rpn.anchor_generator.cell_anchors.0", &[3, 4]),
    ];
    let state: StateDict = names
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let values = Tensor::full(*shape, i as f64 + 2.0, (Kind::Float, Device::Cpu));
            (name.to_string(), TensorData::try_from(&values).unwrap())
        })
        .collect();
    let path = folder.path().join("model.pkl");
    let written = write_pickle(&path, &c2_model_saving::to_c2(&state, "R-50-FPN").unwrap(), Python::Two).unwrap();
    assert_eq!(written, Python::Two);
    let file = read_file(&path).unwrap();
    assert_eq!(c2_model_loading::body_of(&file).unwrap(), "R-50");
    let blobs = file.as_dict().unwrap().get("blobs").unwrap().as_dict().unwrap();
    for blob in ["conv1_w", "res_conv1_bn_s", "res4_5_branch2b_w", "fpn_inner_res5_2_sum_b", "_[mask]_fcn2_w"] {
        assert!(blobs.get(blob).is_some(), "{blob}");
    }
    assert!(blobs.get("rpn_cls_logits_fpn2_w").is_some());
    let back = c2_model_loading::from_c2(&file, "R-50-FPN", &[]).unwrap();
    assert_eq!(back.len(), 7, "statistics are worked in, anchors are left out");
    for (name, data) in &back {
        let (_, original) = state.iter().find(|(full, _)| full.ends_with(name)).unwrap();
        let values = to_tensor(data).unwrap();
        let want = match name.as_str() {
            // weight 3, bias 4, mean 5, variance 6
            "bn1.weight" => Tensor::full([4], 3.0 / 6f64.sqrt(), (Kind::Float, Device::Cpu)),
            "bn1.bias" => Tensor::full([4], 4.0 - 5.0 * 3.0 / 6f64.sqrt(), (Kind::Float, Device::Cpu)),
            _ => to_tensor(original).unwrap(),
        };
        assert!(values.allclose(&want, 1e-6, 1e-6, false), "{name}");
    }
    let splits = vec![("layer1.0.convs.0.weight".to_string(), state[0].1.clone())];
    assert!(c2_model_saving::to_c2(&splits, "R2-50-FPN").unwrap_err().to_string().contains("convs.0"));
}
