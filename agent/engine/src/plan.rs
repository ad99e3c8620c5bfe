//! Plans: a graph made concrete for given input shapes, optimised, and kept ready with its state.
//!
//! Optimising takes milliseconds to seconds, running microseconds: the last few shapes are kept, least recently used out
//! first.

use tract_onnx::prelude::{
    DatumType, InferenceModel, InferenceModelExt as _, IntoRunnable, TValue, TVec, TypedSimpleState,
};
use tract_onnx::tract_hir::infer::InferenceFact;

use crate::border::{causes, guarded};
use crate::error::EngineError;

/// Plans kept per model: the batch sizes of one sample shape, and one to spare.
const KEPT: usize = 4;

/// One shape per input of the graph.
type Shapes = Vec<Vec<usize>>;

pub(crate) struct Plans {
    graph: InferenceModel,
    types: Vec<DatumType>,
    /// Most recently used last.
    ready: Vec<(Shapes, TypedSimpleState)>,
}

impl Plans {
    /// `types`: one per input of the graph.
    pub(crate) fn new(graph: InferenceModel, types: Vec<DatumType>) -> Self {
        Self {
            graph,
            types,
            ready: Vec::new(),
        }
    }

    /// Runs the graph on one value per input, in the graph's order. Outputs are in the graph's order.
    pub(crate) fn run(&mut self, inputs: TVec<TValue>) -> Result<TVec<TValue>, EngineError> {
        let shapes: Shapes = inputs.iter().map(|value| value.shape().to_vec()).collect();
        let position = self.ready.iter().position(|(have, _)| *have == shapes);
        // Taken out while it runs: after an error or a panic its inner state is not to be trusted, and it stays out.
        let (shapes, mut state) = if let Some(position) = position {
            self.ready.remove(position)
        } else {
            let state = self.prepare(&shapes)?;
            (shapes, state)
        };
        let outputs = guarded("running the model", || {
            state.run(inputs).map_err(|e| EngineError::Run(causes(&e)))
        });
        if outputs.is_ok() {
            if self.ready.len() >= KEPT {
                drop(self.ready.remove(0));
            }
            self.ready.push((shapes, state));
        }
        outputs
    }

    /// Shapes of the plans that are ready, for tests of the cache.
    #[cfg(test)]
    pub(crate) fn ready_shapes(&self) -> Vec<Shapes> {
        self.ready.iter().map(|(shapes, _)| shapes.clone()).collect()
    }

    fn prepare(&self, shapes: &Shapes) -> Result<TypedSimpleState, EngineError> {
        guarded("optimising the model", || {
            let mut graph = self.graph.clone();
            for (index, (shape, datum_type)) in shapes.iter().zip(&self.types).enumerate() {
                graph = graph
                    .with_input_fact(index, InferenceFact::dt_shape(*datum_type, shape))
                    .map_err(|e| EngineError::Graph(causes(&e)))?;
            }
            graph
                .into_optimized()
                .and_then(IntoRunnable::into_runnable)
                .and_then(|plan| plan.spawn())
                .map_err(|e| EngineError::Graph(format!("for input shapes {shapes:?}: {}", causes(&e))))
        })
    }
}
