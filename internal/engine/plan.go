package engine

import (
	"fmt"
	"math"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Losses of an architecture.
const (
	LossLogistic = "logistic" // ln(1+eᶻ) - y·z of the logit z; predictions are probabilities
	LossSquared  = "squared"  // ½(p-y)²
	LossHuber    = "huber"    // ½r² for |r| ≤ δ, else δ(|r|-½δ), with r = p-y
	LossSoftmax  = "softmax"  // cross-entropy of the class y; predictions are probabilities
)

// Plan is what the architecture of a spec means: which parameters there are, how they are
// laid out and which parts of a model use them. It is the same for every driver, so the
// parameters that one driver trained another can serve.
//
// An example's scores z [Outputs] are the sum of a bias and of the parts that are not nil.
// With xⱼ the value of the j-th id of the example, r its row, and d the dense numbers:
//
//	Wide  z += Σⱼ xⱼ·r[:K]  +  Σ_w d[w]·dense[w,:]
//	FM    the same, and for each output c, over the k factors f of all ids and dense numbers,
//	      z[c] += ½ Σ_f ((Σⱼ xⱼ·v[c,f])² - Σⱼ (xⱼ·v[c,f])²), which is Σ_{i<j} <vᵢ,vⱼ>·xᵢ·xⱼ
//	      (Rendle, ICDM 2010); an id that occurs twice counts as two features
//	Deep  h₀ = for each field the sum of xⱼ·embedding, then d;  hₗ₊₁ = relu(hₗ·Wₗ + bₗ);
//	      z += h_last·head. With layer norm, relu is taken of gain·n(hₗ·Wₗ + bₗ) + shift, n
//	      bringing each example's layer to mean 0 and variance 1 (Ba et al., 2016). In training
//	      with dropout, a share of each hₗ₊₁ is 0 and the rest divided by what is left (Srivastava
//	      et al., JMLR 2014); see Keep.
//
// The deep part's input h₀ is another one in
//
//	DLRM  with v₀ = bottom layers of d, and vᵢ each field's Σⱼ xⱼ·embedding: h₀ = v₀, then
//	      <vᵢ,vⱼ> for i < j in order of j, then i (Naumov et al., 2019)
//
// and beside the deep part, on the same input, there is in
//
//	DCN   x₀ = h₀;  xₗ₊₁ = x₀ ⊙ (xₗ·Wₗ + bₗ) + xₗ;  z += x_last·cross_head, Wₗ being full or
//	      Uₗ·Vₗ of a low rank (Wang et al., WWW 2021)
//
// A Plan is immutable.
type Plan struct {
	Shape      Shape
	Kind       string
	Loss       string
	HuberDelta float32
	Precision  kernel.Precision // of the factors in the products of hidden and cross layers
	Outputs    int              // K: classes of softmax loss, else 1

	Tables  []tidemill.TableSpec
	Tensors []tidemill.TensorSpec
	Uses    [][]bool // [table][field]

	Bias int   // tensor [K]
	Wide *Wide // nil: no linear part, or it is FM's
	FM   *FM
	Deep *Deep

	Interaction *Interaction // DLRM: makes Deep's input
	Cross       *Cross       // DCN
}

// Wide is the linear part. Table and tensor are indexes into the plan, -1 where the features
// have no sparse fields or no dense numbers.
type Wide struct {
	Table int // dim K
	Dense int // [Width × K]
}

// FM is a factorisation machine. A row of its table is the K linear weights, then K×Dim
// factors. Indexes are -1 as in Wide.
type FM struct {
	Dim          int // factors of each output
	Table        int // dim K·(1+Dim)
	Dense        int // [Width × K]
	DenseFactors int // [Width × K·Dim]
}

// Deep is a multi-layer perceptron over embeddings and dense numbers.
type Deep struct {
	Table  int   // -1 without fields
	Fields []int // the fields that are embedded, ascending
	Skip   int   // position of the embedding in a row
	Dim    int   // length of the embedding
	In     int   // len(Fields)·Dim + Width, or Interaction.Out
	Layers []Layer
	Head   int // tensor [Layers[last].Out × K]
	// Dropout is the share of each layer's outputs that is 0 in training.
	Dropout float32
}

// Layer is one hidden layer.
type Layer struct {
	In, Out      int
	Weight, Bias int // tensors [In × Out] and [Out]
	Gain, Shift  int // tensors [Out] of layer norm, -1 without
}

// NormEpsilon is added to the variance that layer norm divides by.
const NormEpsilon = 1e-5

// Interaction is DLRM's. Deep then has neither table nor fields.
type Interaction struct {
	Table  int   // -1 without fields
	Fields []int // all
	Dim    int
	Bottom []Layer // over the dense numbers, the last one Dim wide; empty without numbers
	// Vectors is their number: one for each field, and one for the bottom layers.
	Vectors int
	Out     int // Dim with bottom layers, and Vectors·(Vectors-1)/2
}

// Cross is DCN's, on Deep's input.
type Cross struct {
	Layers []CrossLayer
	Head   int // tensor [In × K]
}

// CrossLayer is one cross layer, with one weight or, of a low rank, two.
type CrossLayer struct {
	Rank        int // 0: full
	Weight      int // tensor [In × In], -1 of a low rank
	Left, Right int // tensors [In × Rank] and [Rank × In], -1 of full rank
	Bias        int // tensor [In]
}

// Keep says whether dropout keeps a unit of a layer for the example with a key: a function of
// its arguments alone, so that the same example has the same units wherever it is trained.
func Keep(key uint64, layer, unit int, rate float32) bool {
	u := tidemill.Mix(key ^ tidemill.Mix(uint64(layer+1)<<32|uint64(unit)))
	return float32(u>>40)/(1<<24) >= rate
}

// Defaults and limits of an architecture.
const (
	defaultDim         = 8
	defaultInitScale   = 0.01
	defaultHuberDelta  = 1
	defaultCrossLayers = 3
	maxDim             = 1 << 12
	maxHidden          = 1 << 16
	maxLayers          = 32
	maxTensor          = 1 << 28 // values; 1 GiB
)

// NewPlan lays the parameters of s out for features of the given shape. A spec that makes no
// sense is refused with tidemill.ErrInvalid.
//
// Tables and tensors by kind (K outputs, Width dense numbers, k = Architecture.Dim); those
// that nothing would use, because there are no fields or no dense numbers, are left out:
//
//	linear, logistic, softmax  weights K; dense [Width,K]
//	fm                         factors K(1+k); dense [Width,K], dense_factors [Width,K·k]
//	mlp                        embeddings k; hidden1 [In,h₁], hidden1_bias [h₁], …, head [h,K]
//	wide_deep                  wide K over all fields, embeddings k over those that are no
//	                           cross; dense, and mlp's tensors
//	deepfm                     fm's, the factors being mlp's embeddings; mlp's tensors
//	dlrm                       embeddings k; bottom1 [Width,b₁], bottom1_bias, …, and mlp's tensors
//	dcn                        mlp's; cross1 [In,In] or cross1_left [In,r] and cross1_right
//	                           [r,In], cross1_bias [In], …, cross_head [In,K]
//
// With layer norm, each hidden layer also has hidden1_gain and hidden1_shift [h₁].
//
// and "bias" [K] for all of them.
func NewPlan(s *tidemill.Spec, shape Shape) (*Plan, error) {
	a := s.Architecture
	p := &Plan{Shape: shape, Kind: a.Kind, HuberDelta: float32(a.HuberDelta)}
	if shape.Fields < 0 || shape.Width < 0 || len(shape.IsCross) != shape.Fields {
		return nil, tidemill.Invalid("engine: shape of %d fields and %d dense numbers has %d cross marks",
			"", shape.Fields, shape.Width, len(shape.IsCross))
	}
	kinds := []string{tidemill.Linear, tidemill.Logistic, tidemill.Softmax, tidemill.FM, tidemill.MLP,
		tidemill.WideDeep, tidemill.DeepFM, tidemill.DLRM, tidemill.DCN}
	if !slices.Contains(kinds, a.Kind) {
		return nil, unknown("architecture kind", a.Kind, kinds)
	}
	if err := p.setLoss(s); err != nil {
		return nil, err
	}
	dim, hidden, err := sizes(a)
	if err != nil {
		return nil, err
	}

	scale := a.InitScale
	if scale == 0 {
		scale = defaultInitScale
	}
	if !(scale > 0 && scale <= 1e3) {
		return nil, tidemill.Invalid("architecture.init_scale is %v", "give a positive number, such as 0.01", a.InitScale)
	}
	if !(a.Dropout >= 0 && a.Dropout < 1) {
		return nil, tidemill.Invalid("architecture.dropout is %v", "give a share below 1, such as 0.1", a.Dropout)
	}
	if p.Precision, err = precision(a.Precision); err != nil {
		return nil, err
	}
	b := builder{Plan: p, maxRows: s.Train.MaxRows, scale: float32(scale), norm: a.LayerNorm, dropout: float32(a.Dropout)}
	switch a.Kind {
	case tidemill.Linear, tidemill.Logistic, tidemill.Softmax:
		b.wide("weights")
	case tidemill.FM:
		b.fm(dim)
	case tidemill.MLP:
		err = b.deep(b.embeddings(dim, func(int) bool { return true }), hidden)
	case tidemill.WideDeep:
		b.wide("wide")
		err = b.deep(b.embeddings(dim, func(f int) bool { return !shape.IsCross[f] }), hidden)
	case tidemill.DeepFM:
		b.fm(dim)
		d := &Deep{Table: p.FM.Table, Skip: p.Outputs, Dim: p.Outputs * dim}
		for f := range shape.Fields {
			d.Fields = append(d.Fields, f)
		}
		err = b.deep(d, hidden)
	case tidemill.DLRM:
		err = b.dlrm(dim, a.Bottom, hidden)
	case tidemill.DCN:
		if err = b.deep(b.embeddings(dim, all), hidden); err == nil {
			err = b.cross(a.CrossLayers, a.Rank)
		}
	}
	if err != nil {
		return nil, err
	}
	p.Bias = b.tensor("bias", tidemill.Init{}, p.Outputs)
	for _, t := range p.Tensors {
		if t.Len() > maxTensor {
			return nil, tidemill.Invalid("tensor %s of shape %v has more than %d values",
				"use smaller hidden layers, a smaller dim or fewer features", t.Name, t.Shape, maxTensor)
		}
	}
	return p, nil
}

// setLoss chooses the loss and the number of outputs.
func (p *Plan) setLoss(s *tidemill.Spec) error {
	label := s.Label.Type
	if label == "" {
		label = tidemill.Binary
	}
	natural := map[string]string{
		tidemill.Binary: LossLogistic, tidemill.Regression: LossSquared, tidemill.Multiclass: LossSoftmax,
	}
	byLabel, ok := natural[label]
	if !ok {
		return unknown("label type", label, []string{tidemill.Binary, tidemill.Regression, tidemill.Multiclass})
	}
	p.Loss = s.Architecture.Loss
	if p.Loss == "" {
		p.Loss = byLabel
	}
	losses := []string{LossLogistic, LossSquared, LossHuber, LossSoftmax}
	if !slices.Contains(losses, p.Loss) {
		return unknown("loss", p.Loss, losses)
	}
	switch {
	case (p.Loss == LossSoftmax) != (label == tidemill.Multiclass):
		return tidemill.Invalid("loss %s does not fit a label of type %s", "use loss %s, or leave it out",
			p.Loss, label, byLabel)
	case p.Loss == LossLogistic && label != tidemill.Binary:
		return tidemill.Invalid("loss logistic needs labels of 0 and 1, and the label type is %s",
			"use loss squared or huber, or a binary label", label)
	case p.Kind == tidemill.Logistic && p.Loss != LossLogistic:
		return tidemill.Invalid("architecture kind logistic has no loss %s", "use kind linear, or a binary label", p.Loss)
	case p.Kind == tidemill.Softmax && p.Loss != LossSoftmax:
		return tidemill.Invalid("architecture kind softmax has no loss %s",
			"use kind linear or logistic, or label type multiclass", p.Loss)
	}
	p.Outputs = 1
	if p.Loss == LossSoftmax {
		p.Outputs = p.Shape.Outputs
		if p.Outputs < 2 || p.Outputs > maxDim {
			return tidemill.Invalid("a multiclass label with %d classes", fmt.Sprintf("list 2 to %d classes", maxDim), p.Outputs)
		}
	}
	if s.Architecture.HuberDelta == 0 {
		p.HuberDelta = defaultHuberDelta
	}
	if !(p.HuberDelta > 0) || math.IsInf(float64(p.HuberDelta), 1) {
		return tidemill.Invalid("architecture.huber_delta is %v", "give a positive number", s.Architecture.HuberDelta)
	}
	return nil
}

// precision returns the kernels' of a name.
func precision(name string) (kernel.Precision, error) {
	switch name {
	case "", tidemill.Float32:
		return kernel.Float32, nil
	case tidemill.BFloat16:
		return kernel.BFloat16, nil
	}
	return 0, unknown("precision", name, []string{tidemill.Float32, tidemill.BFloat16})
}

// sizes returns the dimension of factors and embeddings and the widths of hidden layers.
func sizes(a tidemill.Architecture) (dim int, hidden []int, err error) {
	if dim = a.Dim; dim == 0 {
		dim = defaultDim
	}
	if dim < 1 || dim > maxDim {
		return 0, nil, tidemill.Invalid("architecture.dim is %d", fmt.Sprintf("give 1 to %d", maxDim), dim)
	}
	if hidden = slices.Clone(a.Hidden); len(hidden) == 0 {
		hidden = []int{64, 32}
	}
	return dim, hidden, widths("hidden", hidden)
}

// widths checks a list of layers.
func widths(key string, layers []int) error {
	if len(layers) > maxLayers {
		return tidemill.Invalid("architecture.%s has %d layers", fmt.Sprintf("give at most %d", maxLayers), key, len(layers))
	}
	for _, h := range layers {
		if h < 1 || h > maxHidden {
			return tidemill.Invalid("architecture.%s has a layer of %d units", fmt.Sprintf("give 1 to %d", maxHidden), key, h)
		}
	}
	return nil
}

func unknown(what, name string, known []string) error {
	remedy := fmt.Sprintf("use one of %v", known)
	if near := tidemill.Nearest(name, known); near != "" && name != "" {
		remedy = "did you mean " + near + "?"
	}
	return tidemill.Invalid("unknown %s %q", remedy, what, name)
}

// builder adds parts to a plan.
type builder struct {
	*Plan
	maxRows int64
	scale   float32 // of factors and embeddings
	norm    bool    // layer norm in hidden layers
	dropout float32
}

// table adds a table over the chosen fields, or returns -1 when there are none.
func (b *builder) table(name string, dim int, init tidemill.Init, uses func(f int) bool) int {
	fields := make([]bool, b.Shape.Fields)
	for f := range fields {
		fields[f] = uses(f)
	}
	if !slices.Contains(fields, true) {
		return -1
	}
	b.Tables = append(b.Tables, tidemill.TableSpec{Name: name, Dim: dim, Init: init, MaxRows: b.maxRows})
	b.Uses = append(b.Uses, fields)
	return len(b.Tables) - 1
}

// tensor adds a tensor, or returns -1 when it would be empty.
func (b *builder) tensor(name string, init tidemill.Init, shape ...int) int {
	t := tidemill.TensorSpec{Name: name, Shape: shape, Init: init}
	if t.Len() == 0 {
		return -1
	}
	b.Tensors = append(b.Tensors, t)
	return len(b.Tensors) - 1
}

func all(int) bool { return true }

func (b *builder) wide(table string) {
	b.Wide = &Wide{
		Table: b.table(table, b.Outputs, tidemill.Init{}, all),
		Dense: b.tensor("dense", tidemill.Init{}, b.Shape.Width, b.Outputs),
	}
}

func (b *builder) fm(dim int) {
	k := b.Outputs
	factors := tidemill.Init{Kind: tidemill.InitNormal, Scale: b.scale}
	row := factors
	row.From = k
	b.FM = &FM{
		Dim:          dim,
		Table:        b.table("factors", k*(1+dim), row, all),
		Dense:        b.tensor("dense", tidemill.Init{}, b.Shape.Width, k),
		DenseFactors: b.tensor("dense_factors", factors, b.Shape.Width, k*dim),
	}
}

// embeddings returns a Deep with a table of its own over the chosen fields.
func (b *builder) embeddings(dim int, uses func(f int) bool) *Deep {
	d := &Deep{Dim: dim}
	for f := range b.Shape.Fields {
		if uses(f) {
			d.Fields = append(d.Fields, f)
		}
	}
	d.Table = b.table("embeddings", dim, tidemill.Init{Kind: tidemill.InitNormal, Scale: b.scale}, uses)
	return d
}

// deep adds the layers over d's embeddings: normal initial weights with variance 2/In for
// the rectified layers (He et al., ICCV 2015) and 1/In for the head, biases of zero.
func (b *builder) deep(d *Deep, hidden []int) error {
	if b.Interaction == nil {
		d.In = len(d.Fields)*d.Dim + b.Shape.Width
	}
	if d.In == 0 {
		return tidemill.Invalid("architecture kind %s has no input for its hidden layers",
			"add a feature that is not a cross", b.Kind)
	}
	d.Layers, d.Dropout = b.layers("hidden", d.In, hidden, b.norm), b.dropout
	in := hidden[len(hidden)-1]
	last := tidemill.Init{Kind: tidemill.InitNormal, Scale: float32(math.Sqrt(1 / float64(in)))}
	d.Head = b.tensor("head", last, in, b.Outputs)
	b.Deep = d
	return nil
}

// layers adds a stack of rectified layers.
func (b *builder) layers(name string, in int, widths []int, norm bool) []Layer {
	var layers []Layer
	for i, out := range widths {
		name := fmt.Sprintf("%s%d", name, i+1)
		he := tidemill.Init{Kind: tidemill.InitNormal, Scale: float32(math.Sqrt(2 / float64(in)))}
		l := Layer{
			In: in, Out: out,
			Weight: b.tensor(name, he, in, out),
			Bias:   b.tensor(name+"_bias", tidemill.Init{}, out),
			Gain:   -1, Shift: -1,
		}
		if norm {
			l.Gain = b.tensor(name+"_gain", tidemill.Init{Kind: tidemill.InitConstant, Scale: 1}, out)
			l.Shift = b.tensor(name+"_shift", tidemill.Init{}, out)
		}
		layers = append(layers, l)
		in = out
	}
	return layers
}

// dlrm adds DLRM's bottom layers and its deep part over the interactions.
func (b *builder) dlrm(dim int, bottom, hidden []int) error {
	x := &Interaction{Dim: dim}
	for f := range b.Shape.Fields {
		x.Fields = append(x.Fields, f)
	}
	x.Table = b.table("embeddings", dim, tidemill.Init{Kind: tidemill.InitNormal, Scale: b.scale}, all)
	x.Vectors = len(x.Fields)
	if b.Shape.Width > 0 {
		if len(bottom) == 0 {
			bottom = []int{64}
		}
		if err := widths("bottom", bottom); err != nil {
			return err
		}
		x.Bottom = b.layers("bottom", b.Shape.Width, append(slices.Clone(bottom), dim), false)
		x.Vectors++
		x.Out = dim
	}
	x.Out += x.Vectors * (x.Vectors - 1) / 2
	if x.Out == 0 {
		return tidemill.Invalid("architecture kind dlrm has nothing to cross", "add a second feature")
	}
	b.Interaction = x
	return b.deep(&Deep{Table: -1, In: x.Out}, hidden)
}

// cross adds DCN's cross layers on the deep part's input.
func (b *builder) cross(layers, rank int) error {
	if layers == 0 {
		layers = defaultCrossLayers
	}
	in := b.Deep.In
	switch {
	case layers < 1 || layers > maxLayers:
		return tidemill.Invalid("architecture.cross_layers is %d", fmt.Sprintf("give 1 to %d", maxLayers), layers)
	case rank < 0 || rank > maxDim:
		return tidemill.Invalid("architecture.rank is %d", fmt.Sprintf("give 0 to %d", maxDim), rank)
	}
	scale := func(n int) tidemill.Init {
		return tidemill.Init{Kind: tidemill.InitNormal, Scale: float32(math.Sqrt(1 / float64(n)))}
	}
	b.Cross = &Cross{}
	for i := range layers {
		name := fmt.Sprintf("cross%d", i+1)
		l := CrossLayer{Rank: rank, Weight: -1, Left: -1, Right: -1}
		if rank == 0 {
			l.Weight = b.tensor(name, scale(in), in, in)
		} else {
			l.Left = b.tensor(name+"_left", scale(in), in, rank)
			l.Right = b.tensor(name+"_right", scale(rank), rank, in)
		}
		l.Bias = b.tensor(name+"_bias", tidemill.Init{}, in)
		b.Cross.Layers = append(b.Cross.Layers, l)
	}
	b.Cross.Head = b.tensor("cross_head", scale(in), in, b.Outputs)
	return nil
}
