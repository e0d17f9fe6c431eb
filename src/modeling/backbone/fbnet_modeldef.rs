//! The architectures of FBNet models: the built-in ones of `modeling/backbone/fbnet_modeldef.py` (FBNet, Wu et al.
//! 2018; ChamNet, Dai et al. 2018; MobileNetV2, Sandler et al. 2018), and those that `MODEL.FBNET.ARCH_DEF` gives as
//! JSON.

use anyhow::{ensure, Context, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::registry::unknown_name;

/// One block of an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockDef {
    /// Its stage.
    pub stage_idx: usize,
    /// Position in its stage.
    pub block_idx: usize,
    /// The name of the operator, see [`super::fbnet_blocks`].
    pub op: String,
    /// Channels inside of the block, as a multiple of its input's.
    pub expansion: f64,
    /// Output channels before scaling.
    pub channels: i64,
    /// A negative stride enlarges.
    pub stride: i64,
}

/// A whole architecture, its repeated blocks written out.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchDef {
    /// Channels, stride and perhaps kernel of the first convolution.
    pub first: Vec<i64>,
    /// All blocks, stage by stage.
    pub blocks: Vec<BlockDef>,
    /// Channels and scale of the last convolution of a head.
    pub last: (i64, f64),
    /// The stages of each part, for those parts that the architecture has.
    pub parts: Vec<(Part, Vec<usize>)>,
    /// What `MODEL.RPN.ANCHOR_STRIDE` has to be, if the architecture says so.
    pub rpn_stride: Option<i64>,
}

/// The parts of a model that stages belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `backbone`
    Backbone,
    /// `rpn`
    Rpn,
    /// `bbox`
    Bbox,
    /// `mask`
    Mask,
    /// `kpts`
    Kpts,
    /// `head`: what a head without stages of its own uses.
    Head,
}

impl Part {
    const ALL: [(Part, &'static str); 6] = [
        (Part::Backbone, "backbone"),
        (Part::Rpn, "rpn"),
        (Part::Bbox, "bbox"),
        (Part::Mask, "mask"),
        (Part::Kpts, "kpts"),
        (Part::Head, "head"),
    ];
}

impl ArchDef {
    /// The architecture that `MODEL.FBNET.ARCH` names and `MODEL.FBNET.ARCH_DEF` may define.
    ///
    /// # Errors
    /// The name is not known and not defined, or defined differently from the built-in one; the JSON is malformed.
    pub fn of(arch: &str, arch_def: &str) -> Result<Self> {
        let built_in = BUILT_IN.iter().find(|definition| definition.name == arch).map(Definition::expand);
        if arch_def.is_empty() {
            return built_in.ok_or_else(|| {
                let known = BUILT_IN.iter().map(|definition| definition.name);
                unknown_name("MODEL.FBNET.ARCH", arch, known).context("MODEL.FBNET.ARCH_DEF is empty")
            });
        }
        let defined = Self::from_json(arch_def).context("MODEL.FBNET.ARCH_DEF")?;
        if let Some(built_in) = built_in {
            ensure!(
                built_in == defined,
                "MODEL.FBNET.ARCH_DEF differs from the built-in architecture {arch:?}; give it a name of its own in \
                 MODEL.FBNET.ARCH"
            );
        }
        Ok(defined)
    }

    /// Reads an architecture in the original's form: `block_op_type` lists operator names per stage, `block_cfg` has
    /// `stages` (per stage, rows of expansion, channels, repetitions, stride), `first`, `last` and the stages of parts.
    fn from_json(text: &str) -> Result<Self> {
        let top: Map<String, Value> = serde_json::from_str(text).context("no JSON object")?;
        let block_cfg: Map<String, Value> = required(&top, "block_cfg")?;
        let ops: Vec<Vec<String>> = required(&top, "block_op_type")?;
        let stages: Vec<Vec<(f64, i64, usize, i64)>> = required(&block_cfg, "stages")?;
        let either = |key| block_cfg.get(key).or_else(|| top.get(key));
        let mut parts = Vec::new();
        for (part, key) in Part::ALL {
            if let Some(list) = either(key) {
                parts.push((part, parsed(list, key)?));
            }
        }
        let first: Vec<i64> = parsed(either("first").context("\"first\" is missing")?, "first")?;
        ensure!(first.len() >= 2, "\"first\" is {first:?}; it needs channels and stride");
        let last = parsed(either("last").context("\"last\" is missing")?, "last")?;
        let rpn_stride = either("rpn_stride").map(|value| parsed(value, "rpn_stride")).transpose()?;
        Ok(Self { first, blocks: expand(&stages, &ops)?, last, parts, rpn_stride })
    }

    /// The stages of a part; `None` if the architecture does not have it.
    pub fn stages_of(&self, part: Part) -> Option<&[usize]> {
        self.parts.iter().find(|(known, _)| *known == part).map(|(_, stages)| stages.as_slice())
    }

    /// The number of stages.
    pub fn num_stages(&self) -> usize {
        self.blocks.iter().map(|block| block.stage_idx + 1).max().unwrap_or(0)
    }

    /// The blocks of some stages, and there only those at some positions; `None` and an empty list choose all.
    pub fn select(&self, stages: Option<&[usize]>, positions: &[usize]) -> Vec<BlockDef> {
        let chosen = |list: &[usize], value| list.is_empty() || list.contains(&value);
        self.blocks
            .iter()
            .filter(|b| chosen(stages.unwrap_or(&[]), b.stage_idx) && chosen(positions, b.block_idx))
            .cloned()
            .collect()
    }
}

fn required<T: DeserializeOwned>(map: &Map<String, Value>, key: &str) -> Result<T> {
    parsed(map.get(key).with_context(|| format!("{key:?} is missing"))?, key)
}

fn parsed<T: DeserializeOwned>(value: &Value, key: &str) -> Result<T> {
    serde_json::from_value(value.clone()).with_context(|| format!("{key:?} is {value}"))
}

/// Writes repeated blocks out: only the first repetition has the stride.
fn expand(stages: &[Vec<(f64, i64, usize, i64)>], ops: &[Vec<String>]) -> Result<Vec<BlockDef>> {
    ensure!(stages.len() == ops.len(), "{} stages, but operators for {}", stages.len(), ops.len());
    let mut blocks = Vec::new();
    for (stage_idx, (rows, ops)) in stages.iter().zip(ops).enumerate() {
        let count: usize = rows.iter().map(|row| row.2).sum();
        ensure!(count == ops.len(), "stage {stage_idx} has {count} blocks, but {} operators", ops.len());
        let repeated = rows.iter().flat_map(|row| (0..row.2).map(move |i| (row, i)));
        for (block_idx, ((&(expansion, channels, _, stride), i), op)) in repeated.zip(ops).enumerate() {
            let stride = if i == 0 { stride } else { 1 };
            blocks.push(BlockDef { stage_idx, block_idx, op: op.clone(), expansion, channels, stride });
        }
    }
    Ok(blocks)
}

/// A stage: operators with their number of repetitions, and rows of expansion, channels, repetitions, stride.
type Stage = (&'static [(&'static str, usize)], &'static [(i64, i64, usize, i64)]);

/// A built-in architecture. None of them has a last convolution.
struct Definition {
    name: &'static str,
    first: [i64; 2],
    stages: &'static [Stage],
    parts: &'static [(Part, &'static [usize])],
}

impl Definition {
    fn expand(&self) -> ArchDef {
        let ops: Vec<Vec<String>> = self
            .stages
            .iter()
            .map(|(ops, _)| ops.iter().flat_map(|(op, n)| std::iter::repeat_n(op.to_string(), *n)).collect())
            .collect();
        let stages: Vec<Vec<(f64, i64, usize, i64)>> = self
            .stages
            .iter()
            .map(|(_, rows)| rows.iter().map(|&(t, c, n, s)| (t as f64, c, n, s)).collect())
            .collect();
        ArchDef {
            first: self.first.to_vec(),
            blocks: expand(&stages, &ops).expect("built-in architectures have an operator per block"),
            last: (0, 0.0),
            parts: self.parts.iter().map(|(part, stages)| (*part, stages.to_vec())).collect(),
            rpn_stride: None,
        }
    }
}

const BUILT_IN: &[Definition] = &[
    Definition {
        name: "default",
        first: [32, 2],
        stages: &[
            (&[("ir_k3", 1)], &[(1, 16, 1, 1)]),
            (&[("ir_k3", 2)], &[(6, 24, 2, 2)]),
            (&[("ir_k3", 3)], &[(6, 32, 3, 2)]),
            (&[("ir_k3", 7)], &[(6, 64, 4, 2), (6, 96, 3, 1)]),
            (&[("ir_k3", 4)], &[(4, 160, 1, 2), (6, 160, 2, 1), (6, 240, 1, 1)]),
            (&[("ir_k3", 3)], &[(6, 96, 3, 1)]),
            (&[("ir_k3", 5)], &[(4, 160, 1, 1), (6, 160, 3, 1), (3, 80, 1, -2)]),
        ],
        parts: &[(Part::Backbone, &[0, 1, 2, 3]), (Part::Rpn, &[5]), (Part::Bbox, &[4]), (Part::Mask, &[6])],
    },
    Definition {
        name: "xirb16d_dsmask",
        first: [16, 2],
        stages: &[
            (&[("ir_k3", 1)], &[(1, 16, 1, 1)]),
            (&[("ir_k3", 2)], &[(6, 32, 2, 2)]),
            (&[("ir_k3", 3)], &[(6, 48, 3, 2)]),
            (&[("ir_k3", 7)], &[(6, 96, 4, 2), (6, 128, 3, 1)]),
            (&[("ir_k3", 4)], &[(4, 128, 1, 2), (6, 128, 2, 1), (6, 160, 1, 1)]),
            (&[("ir_k3", 5)], &[(4, 128, 1, 2), (6, 128, 2, 1), (6, 128, 1, -2), (3, 64, 1, -2)]),
            (&[("ir_k3", 3)], &[(6, 128, 3, 1)]),
        ],
        parts: &[(Part::Backbone, &[0, 1, 2, 3]), (Part::Rpn, &[6]), (Part::Bbox, &[4]), (Part::Mask, &[5])],
    },
    Definition {
        name: "mobilenet_v2",
        first: [32, 2],
        stages: &[
            (&[("ir_k3", 1)], &[(1, 16, 1, 1)]),
            (&[("ir_k3", 2)], &[(6, 24, 2, 2)]),
            (&[("ir_k3", 3)], &[(6, 32, 3, 2)]),
            (&[("ir_k3", 7)], &[(6, 64, 4, 2), (6, 96, 3, 1)]),
            (&[("ir_k3", 4)], &[(6, 160, 3, 1), (6, 320, 1, 1)]),
        ],
        parts: &[(Part::Backbone, &[0, 1, 2, 3]), (Part::Bbox, &[4])],
    },
    Definition {
        name: "cham_v1a",
        first: [32, 2],
        stages: &[
            (&[("ir_k3", 1)], &[(1, 24, 1, 1)]),
            (&[("ir_k7", 2)], &[(4, 48, 2, 2)]),
            (&[("ir_k3", 5)], &[(7, 64, 5, 2)]),
            (&[("ir_k5", 7), ("ir_k3", 5)], &[(12, 56, 7, 2), (8, 88, 5, 1)]),
            (&[("ir_k3", 5)], &[(7, 152, 4, 2), (10, 104, 1, 1)]),
            (&[("ir_k3", 3)], &[(8, 88, 3, 1)]),
        ],
        parts: &[(Part::Backbone, &[0, 1, 2, 3]), (Part::Rpn, &[5]), (Part::Bbox, &[4])],
    },
    Definition {
        name: "cham_v2",
        first: [32, 2],
        stages: &[
            (&[("ir_k3", 1)], &[(1, 24, 1, 1)]),
            (&[("ir_k5", 4)], &[(8, 32, 4, 2)]),
            (&[("ir_k7", 6)], &[(5, 48, 6, 2)]),
            (&[("ir_k5", 3), ("ir_k3", 6)], &[(9, 56, 3, 2), (6, 56, 6, 1)]),
            (&[("ir_k3", 7)], &[(2, 160, 6, 2), (6, 112, 1, 1)]),
            (&[("ir_k3", 1)], &[(6, 56, 1, 1)]),
        ],
        parts: &[(Part::Backbone, &[0, 1, 2, 3]), (Part::Rpn, &[5]), (Part::Bbox, &[4])],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: &str = r#"{
        "block_op_type": [["ir_k3"], ["ir_k5_e3", "skip"]],
        "block_cfg": {
            "first": [8, 2, 5], "last": [16, 0.5], "rpn": [1],
            "stages": [[[1, 8, 1, 1]], [[2.5, 12, 2, 2]]]
        },
        "rpn_stride": 8
    }"#;

    #[test]
    fn json_is_expanded_like_the_built_in_ones() {
        let arch = ArchDef::of("mine", MINE).unwrap();
        assert_eq!((arch.first.as_slice(), arch.last, arch.rpn_stride), (&[8, 2, 5][..], (16, 0.5), Some(8)));
        assert_eq!(arch.num_stages(), 2);
        let blocks = arch.select(arch.stages_of(Part::Rpn), &[]);
        let short: Vec<_> = blocks.iter().map(|b| (b.block_idx, b.op.as_str(), b.expansion, b.stride)).collect();
        assert_eq!(short, [(0, "ir_k5_e3", 2.5, 2), (1, "skip", 2.5, 1)]);
        assert_eq!(arch.select(None, &[0]).len(), 2);
        assert!(arch.stages_of(Part::Mask).is_none());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |arch: &str, json: &str| format!("{:#}", ArchDef::of(arch, json).unwrap_err());
        assert!(message("mine", "").contains("cham_v1a"), "{}", message("mine", ""));
        assert!(message("default", MINE).contains("differs from the built-in"));
        assert!(message("mine", "{").contains("MODEL.FBNET.ARCH_DEF"));
        let one_operator = MINE.replace(r#"["ir_k5_e3", "skip"]"#, r#"["skip"]"#);
        assert!(message("mine", &one_operator).contains("stage 1 has 2 blocks, but 1 operators"));
        assert!(message("mine", &MINE.replace("first", "second")).contains("\"first\" is missing"));
    }
}
