// uPlot and its style sheet, in a chunk of their own.
import UPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

export { UPlot };
