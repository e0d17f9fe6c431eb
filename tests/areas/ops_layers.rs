//! Golden `ops/layers`: frozen batch norm, resizing, and what layers make of empty batches.
//!
//! The layers are not initialised, which would draw from the generator that other tests have seeded.

use maskrcnn_benchmark::layers::{
    interpolate, BatchNorm2d, Conv2d, ConvConfig, ConvTranspose2d, DFConv2d, DFConvConfig, FrozenBatchNorm2d,
    InterpolateMode, Parameters, Size,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::support::{area, ints, json, numbers, Report, Tensors};

#[test]
fn layers() {
    let Some(area) = area("ops") else { return };
    let facts = json(&area.join("layers.json"));
    let tensors = Tensors::read(&area.join("layers.safetensors"));
    let mut report = Report::new("ops/layers");

    let norm = FrozenBatchNorm2d::new(&Parameters::uninitialised(Device::Cpu).root(), 6);
    for (buffer, name) in [
        (&norm.weight, "weight"),
        (&norm.bias, "bias"),
        (&norm.running_mean, "running_mean"),
        (&norm.running_var, "running_var"),
    ] {
        buffer.shallow_clone().copy_(tensors.get(&format!("frozen_bn/{name}")));
    }
    let output = norm.forward(tensors.get("frozen_bn/input"));
    report.close("frozen_bn", "output", &output, tensors.get("frozen_bn/output"), 1e-6, 1e-6);

    for case in ["nearest_x2", "bilinear_x2", "bilinear_size", "nearest_size"] {
        let arguments = &facts[format!("interpolate_{case}")];
        let mode = match arguments["mode"].as_str() {
            Some("nearest") => InterpolateMode::Nearest,
            Some("bilinear") => InterpolateMode::Bilinear { align_corners: arguments["align_corners"] == true },
            other => panic!("mode {other:?}"),
        };
        let size = size(arguments).expect("a size or a factor");
        let output = interpolate(tensors.get("interpolate/input"), size, mode);
        let want = tensors.get(&format!("interpolate/{case}/output"));
        report.close(&format!("interpolate_{case}"), "output", &output, want, 1e-6, 1e-6);
    }

    for case in facts["empty_input_shapes"].as_array().unwrap() {
        let name = format!("empty {} {}", case["layer"].as_str().unwrap(), case["args"]);
        if let Some(error) = case.get("error") {
            // The types here have no way to say what the original refuses.
            println!("not expressible: {name}, {}", error["message"]);
            continue;
        }
        match empty(case) {
            Some(got) => {
                report.equal(&name, "shape", got.size(), ints(&case["output_shape"]));
            }
            None => println!("not expressible: {name}, kernels are square here"),
        }
    }
    report.finish();
}

fn size(arguments: &Value) -> Option<Size> {
    if let Some(to) = arguments.get("size") {
        let to = ints(to);
        return Some(Size::To(to[0], to[1]));
    }
    Some(match arguments.get("scale_factor")? {
        Value::Array(list) => {
            let factors = numbers(&Value::Array(list.clone()));
            Size::Scale(factors[0], factors[1])
        }
        factor => Size::Scale(factor.as_f64()?, factor.as_f64()?),
    })
}

/// What the layer of the case makes of its empty batch; the graph must reach the input, as in the original.
fn empty(case: &Value) -> Option<Tensor> {
    let parameters = Parameters::uninitialised(Device::Cpu);
    let (path, arguments) = (parameters.root(), &case["args"]);
    let shape = ints(&case["input_shape"]);
    let input = Tensor::zeros(&shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let number = |key: &str, otherwise: i64| arguments.get(key).map_or(Some(otherwise), Value::as_i64);
    let config = ConvConfig {
        stride: number("stride", 1)?,
        padding: number("padding", 0)?,
        dilation: number("dilation", 1)?,
        ..ConvConfig::default()
    };
    let channels = |key: &str| case[key].as_i64().unwrap();
    let output = match case["layer"].as_str().unwrap() {
        "interpolate" => interpolate(&input, size(arguments)?, InterpolateMode::Nearest),
        "Conv2d" => {
            Conv2d::new(&path, channels("in"), channels("out"), number("kernel_size", 1)?, config).forward(&input)
        }
        "ConvTranspose2d" => {
            let layer = ConvTranspose2d::new(&path, channels("in"), channels("out"), number("kernel_size", 1)?, config);
            layer.with_output_padding(number("output_padding", 0)?).forward(&input)
        }
        "BatchNorm2d" => BatchNorm2d::new(&path, shape[1]).forward(&input, true),
        other => panic!("layer {other}"),
    };
    output.sum(Kind::Float).backward();
    assert_eq!(input.grad().size(), shape);
    Some(output)
}

/// The deformable convolution that predicts its own offsets: the `layer_*` cases of `deform_conv`.
#[test]
fn deformable_convolution_with_its_offsets() {
    let Some(area) = area("ops") else { return };
    let facts = json(&area.join("deform_conv.json"));
    let tensors = Tensors::read(&area.join("deform_conv.safetensors"));
    let mut report = Report::new("ops/deform_conv layer");
    for (name, case) in facts["cases"].as_object().unwrap() {
        if case["layer"] != true {
            continue;
        }
        let number = |key: &str| case.get(key).map_or(1, |v| v.as_i64().unwrap());
        let config = DFConvConfig {
            modulated: case["with_modulated_dcn"] == true,
            stride: number("stride"),
            dilation: number("dilation"),
            groups: number("groups"),
            deformable_groups: 1,
            bias: false,
        };
        let input = tensors.get(&format!("{name}/input"));
        let output = tensors.get(&format!("{name}/output"));
        let parameters = Parameters::uninitialised(Device::Cpu);
        let (channels, kernel) = (input.size()[1], number("kernel"));
        let layer = DFConv2d::new(&parameters.root(), channels, output.size()[1], kernel, config);
        let _guard = tch::no_grad_guard();
        for entry in parameters.state() {
            let golden = tensors.get(&format!("{name}/{}", entry.name.replace('.', "_")));
            entry.tensor.shallow_clone().copy_(golden);
        }
        report.close(name, "output", &layer.forward(input), output, 1e-4, 1e-4);
        // The original cannot do this.
        let mut empty = output.size();
        empty[0] = 0;
        report.equal(name, "empty batch", layer.forward(&input.narrow(0, 0, 0)).size(), empty);
    }
    report.finish();
}
