// Jacobians of piecewise-linear networks: the reverse pass of K cotangents at once, over active positions only.
//
// A program (see program.py) lists *operations* in reverse order: the first holds the cotangents of the outputs, the
// last ones write the Jacobian. The cotangents of the value that an operation returned are its *slot*: a compressed list
// of rows, sorted by position, each with a channel and K values. An operation passes them on to its inputs along
// *edges*. Between two operations an edge crosses a *route* of elementwise steps and poolings, which sends each element
// to one element below with a factor, or drops it: a ReLU that is off, a value that lost its max-pool.
//
// The routes are the same for all K cotangents of an image. So the structure (which rows exist, and where each element
// of an edge arrives) is computed once per image, from masks alone; then the values follow, in blocks of cotangents that
// fit into registers. Every sum has an order that depends on its own image only, so results do not depend on which
// images are computed together.
//
// Elements of a value are numbered per image, in row-major order of the tensor. A slot's element e has channel c and
// position p with e = c * channel_step + p * position_step.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef CHECKED
#define CHECK(condition) \
    if (!(condition)) throw std::out_of_range("line " + std::to_string(__LINE__) + ": " #condition)
#else
#define CHECK(condition) ((void)0)
#endif

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, MOST_COTANGENTS = 12;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, MOST_COTANGENTS = 6;  // with two vectors each, they fill the 16 registers
#else
constexpr int VECTOR_BYTES = 16, MOST_COTANGENTS = 12;
#endif

namespace {

using std::int32_t;
using std::int64_t;
using std::vector;

// Weights that `scatter` applies to a row at once, with all their sums in registers.
constexpr int BLOCK = 9;

// Size in bytes from which a group of images takes no further image: what fits into the caches.
constexpr int64_t GROUP_BYTES = 12'000'000;

enum StepKind { KEEP_POSITIVE, MULTIPLY, POOL, TABLE };
enum OperationKind { IDENTITY, GATHER, SCATTER, POSITIONS };

// A view of memory. The checked build asserts every index.
template <class T>
struct View {
    T* data = nullptr;
    int64_t size = 0;

    T& operator[](int64_t index) const {
        CHECK(index >= 0 && index < size);
        return data[index];
    }
    View part(int64_t start, int64_t count) const {
        CHECK(start >= 0 && count >= 0 && start + count <= size);
        return {data + start, count};
    }
};

template <class T>
View<T> view(vector<T>& values) {
    return {values.data(), static_cast<int64_t>(values.size())};
}

// Reads the program word by word; addresses are words, too.
struct Reader {
    View<const int64_t> words;
    int64_t place = 0;

    int64_t next() { return words[place++]; }
    template <class... Words>
    void into(Words&... targets) {
        ((targets = next()), ...);
    }
    template <class T>
    void into(View<const T>& target) {
        target.data = reinterpret_cast<const T*>(next());
        target.size = next();
    }
};

template <class T>
struct Step {
    int64_t kind, image_step, outer, inner;  // positions of a channel above and below a pooling
    View<const T> values;
    View<const int64_t> winners;
    View<const int32_t> table;
};

template <class T>
struct Edge {
    int64_t target;             // slot, or -1 for the input
    int64_t size;               // number of elements at its upper end
    int64_t strip;              // elements per channel if the route keeps channels, else 0
    View<const int32_t> entry;  // identity: upper element by element of the slot; empty: the same
    vector<Step<T>> steps;
};

// A spatial axis of a convolution. For every place on it, the runs of neighboring places on the other side that a tap
// reaches: places first … last, each with the tap `sum` - place. Along an axis without strides all taps form one run.
struct Axis {
    struct Run {
        int32_t first, last, sum;
    };
    vector<Run> runs;
    vector<int32_t> starts;

    // `is_forward`: place * stride - padding + tap * dilation lies on the other side; else the inverse of that.
    Axis(int64_t size, int64_t other, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, bool is_forward) {
        starts.push_back(0);
        for (int64_t place = 0; place < size; ++place) {
            for (int64_t tap = kernel - 1; tap >= 0; --tap) {
                int64_t at = is_forward ? place * stride - padding + tap * dilation : place + padding - tap * dilation;
                if (!is_forward && (at < 0 || at % stride)) continue;
                if (!is_forward) at /= stride;
                if (at < 0 || at >= other) continue;
                const bool is_next = static_cast<int32_t>(runs.size()) > starts.back() && runs.back().last + 1 == at;
                if (is_next && runs.back().sum == tap + at) ++runs.back().last;
                else runs.push_back({static_cast<int32_t>(at), static_cast<int32_t>(at), static_cast<int32_t>(tap + at)});
            }
            starts.push_back(static_cast<int32_t>(runs.size()));
        }
    }

    // Call `act` with each tap that reaches a place on the other side, and that place.
    template <class Act>
    void each(int64_t place, Act act) const {
        for (int32_t n = starts[place]; n < starts[place + 1]; ++n)
            for (int32_t at = runs[n].first; at <= runs[n].last; ++at) act(runs[n].sum - at, at);
    }
};

template <class T>
struct Operation {
    int64_t kind, slot, channel_step, position_step;  // steps of the input, where the results of this pass arrive
    vector<int64_t> edges;
    int64_t groups, in_channels, out_channels, width, taps, kernel_width, in[2], out[2];  // height and width
    View<const T> weights, tail;
    vector<Axis> axes;
    View<const int32_t> starts, places;  // sums over positions
};

// Neighboring input channels that fit into vectors, and their weights.
template <class T>
struct Panel {
    int64_t first_channel, element, used, row_step;
    View<const T> weights;
};

template <class T>
struct Slot {
    int64_t channels, positions, channel_step, position_step;
    bool is_merged;  // several contributions may arrive in one row
    vector<int64_t> arriving;
};

// Structure of one image: the rows of each slot, and for each element of an edge its row and factor.
template <class T>
struct Structure {
    vector<vector<int32_t>> starts, channels;  // by slot: first row of each position, channel of each row
    vector<vector<int32_t>> offsets;           // by slot, for `gather`: row of the weights, less what depends on the tap
    vector<vector<int32_t>> rows;              // by edge; -1: dropped
    vector<vector<T>> factors;                 // by edge; empty: all 1
};

template <class T>
class Runner {
   public:
    explicit Runner(Reader& reader) { read(reader); }

    void run(int64_t first, int64_t last, T* output) {
        jacobian = {output, (last - first) * outputs * inputs};
        for (int64_t start = first; start < last;) {
            int64_t count = 0;
            for (int64_t bytes = 0; start + count < last && bytes < GROUP_BYTES; ++count) {
                if (count == static_cast<int64_t>(group.size())) group.emplace_back();
                bytes += build(group[count], start + count);
            }
            first_image = start, first_output = start - first;
            const int64_t blocks = (outputs + MOST_COTANGENTS - 1) / MOST_COTANGENTS;
            for (int64_t block = 0; block < blocks; ++block) {
                lowest = outputs * block / blocks, width = outputs * (block + 1) / blocks - lowest;
                fill(count);
            }
            start += count;
        }
    }

   private:
    int64_t outputs = 0, inputs = 0, cotangent_step = 0;
    bool is_input_merged = false;
    View<const int64_t> seeds;  // elements of the output that have a cotangent
    View<const T> cotangents;   // (image, output, seed); with a step of 0, all images share them
    vector<Slot<T>> slots;
    vector<Edge<T>> edges;
    vector<Operation<T>> operations;
    vector<Structure<T>> group;
    // of the current group and block of cotangents
    int64_t lowest = 0, width = 0, first_image = 0, first_output = 0;
    vector<vector<T>> values, spare;   // by slot: rows of all images of the group
    vector<vector<int64_t>> bases;     // by slot and image: index of the first value
    View<T> jacobian;
    vector<int32_t> counts, arrived;
    vector<int64_t> targets;
    vector<T> dense;

    void read(Reader& reader) {
        int64_t count;
        reader.into(outputs, inputs, is_input_merged, cotangent_step, count);
        reader.into(seeds), reader.into(cotangents);
        slots.resize(count);
        for (auto& slot : slots)
            reader.into(slot.channels, slot.positions, slot.channel_step, slot.position_step, slot.is_merged);
        edges.resize(reader.next());
        for (size_t number = 0; number < edges.size(); ++number) {
            auto& edge = edges[number];
            reader.into(edge.target, edge.size, edge.strip, count);
            reader.into(edge.entry);
            edge.steps.resize(count);
            for (auto& step : edge.steps) {
                reader.into(step.kind, step.image_step, step.outer, step.inner);
                if (step.kind == POOL) reader.into(step.winners);
                else if (step.kind == TABLE) reader.into(step.table);
                else reader.into(step.values);
            }
            if (edge.target >= 0) slots[edge.target].arriving.push_back(number);
        }
        for (size_t slot = 0; slot < slots.size(); ++slot) operations.push_back(read_operation(reader, slot));
        values.resize(slots.size()), bases.resize(slots.size());
    }

    Operation<T> read_operation(Reader& reader, int64_t slot) {
        Operation<T> made{};
        made.slot = slot, made.kind = reader.next();
        made.edges.resize(reader.next());
        for (auto& edge : made.edges) edge = reader.next();
        if (made.kind == IDENTITY) return made;
        reader.into(made.channel_step, made.position_step);
        reader.into(made.weights);
        if (made.kind == POSITIONS) {
            reader.into(made.starts), reader.into(made.places);
            return made;
        }
        bool is_transposed;
        int64_t kernel[2], stride[2], padding[2], dilation[2];
        reader.into(made.tail);
        reader.into(made.groups, made.in_channels, made.out_channels, made.width, is_transposed);
        for (auto* pair : {made.in, made.out, kernel, stride, padding, dilation}) reader.into(pair[0], pair[1]);
        made.kernel_width = kernel[1], made.taps = kernel[0] * kernel[1];
        // `gather` looks from the input to the output, `scatter` from the output to the input
        const bool is_gather = made.kind == GATHER;
        for (int n = 0; n < 2; ++n) {
            const int64_t near = is_gather ? made.in[n] : made.out[n], far = is_gather ? made.out[n] : made.in[n];
            made.axes.emplace_back(near, far, kernel[n], stride[n], padding[n], dilation[n], is_gather == is_transposed);
        }
        return made;
    }

    // ---- structure

    // Compute the structure of one image; returns the bytes that its values take at most.
    int64_t build(Structure<T>& made, int64_t image) {
        made.starts.resize(slots.size()), made.channels.resize(slots.size());
        made.rows.resize(edges.size()), made.factors.resize(edges.size()), made.offsets.resize(slots.size());
        made.channels[0].assign(seeds.data, seeds.data + seeds.size);
        made.starts[0] = {0, static_cast<int32_t>(seeds.size)};
        int64_t bytes = 0;
        for (const auto& operation : operations) {
            if (operation.slot) finish(made, operation.slot);
            if (operation.kind == GATHER) number_weights(made, operation);
            bytes += made.channels[operation.slot].size() * sizeof(T) * MOST_COTANGENTS;
            for (const auto number : operation.edges) {
                cross(edges[number], image, made.rows[number], made.factors[number]);
                if (operation.kind == IDENTITY)
                    select(edges[number], made.channels[operation.slot], made.rows[number], made.factors[number]);
                bytes += edges[number].size * 8;
            }
        }
        return bytes;
    }

    // A row in column x, with channel c, meets tap t in row (t * channels + c) of the weights. Within a run of places
    // t + x is constant, so that c - x * channels is all that differs.
    void number_weights(Structure<T>& made, const Operation<T>& operation) {
        const auto &starts = made.starts[operation.slot], &channels = made.channels[operation.slot];
        auto& offsets = made.offsets[operation.slot];
        offsets.resize(channels.size());
        int64_t position = 0;
        for (int64_t y = 0; y < operation.out[0]; ++y)
            for (int64_t x = 0; x < operation.out[1]; ++x, ++position)
                for (int32_t row = starts[position]; row < starts[position + 1]; ++row)
                    offsets[row] = channels[row] - static_cast<int32_t>(x * operation.out_channels);
    }

    // Follow every element of an edge through its route: the element below it and the factor.
    void cross(const Edge<T>& edge, int64_t image, vector<int32_t>& rows, vector<T>& factors) {
        rows.resize(edge.size), factors.clear();
        int32_t* row = rows.data();
        for (int64_t e = 0; e < edge.size; ++e) row[e] = static_cast<int32_t>(e);
        bool is_first = true;  // the elements are still in order, and none is dropped
        for (const auto& step : edge.steps) {
            const int64_t base = image * step.image_step;
            if (step.kind == KEEP_POSITIVE && is_first) {
                const T* mask = step.values.part(base, edge.size).data;
                for (int64_t e = 0; e < edge.size; ++e) row[e] = mask[e] <= 0 ? -1 : row[e];  // as torch does: NaN is kept
            } else if (step.kind == KEEP_POSITIVE) {
                for (int64_t e = 0; e < edge.size; ++e) row[e] = step.values[base + std::max(row[e], 0)] <= 0 ? -1 : row[e];
            } else if (step.kind == TABLE) {
                for (int64_t e = 0; e < edge.size; ++e)
                    if (row[e] >= 0) row[e] = step.table[row[e]];
            } else if (step.kind == POOL && is_first) {
                for (int64_t e = 0, plane = 0; e < edge.size; plane += step.inner)
                    for (const int64_t end = e + step.outer; e < end; ++e) row[e] = plane + step.winners[base + e];
            } else if (step.kind == POOL) {
                for (int64_t e = 0; e < edge.size; ++e)
                    if (row[e] >= 0) row[e] = row[e] / step.outer * step.inner + step.winners[base + row[e]];
            } else {
                if (factors.empty()) factors.assign(edge.size, T(1));
                for (int64_t e = 0; e < edge.size; ++e) {
                    if (row[e] < 0) continue;
                    factors[e] *= step.values[base + row[e]];
                    if (factors[e] == 0) row[e] = -1;
                }
            }
            is_first = false;
        }
    }

    // Reduce an edge of an identity to the rows of its slot, in their order.
    void select(const Edge<T>& edge, const vector<int32_t>& channels, vector<int32_t>& rows, vector<T>& factors) {
        vector<int32_t> kept;
        vector<T> kept_factors;
        for (const auto channel : channels) {
            const int64_t upper = edge.entry.size ? edge.entry[channel] : channel;
            kept.push_back(upper < 0 ? -1 : view(rows)[upper]);
            if (!factors.empty()) kept_factors.push_back(upper < 0 ? T(0) : factors[upper]);
        }
        rows.swap(kept), factors.swap(kept_factors);
    }

    // Number the rows of a slot, by position and then in the order in which elements arrive, and write these numbers
    // into the edges.
    void finish(Structure<T>& made, int64_t number) {
        const auto& slot = slots[number];
        if (!slot.is_merged) {
            number_rows(made, number, view(made.rows[slot.arriving[0]]), edges[slot.arriving[0]].strip);
            return;
        }
        // several elements may arrive at one: collect each once
        arrived.assign(slot.channels * slot.positions, -1);
        for (const auto edge : slot.arriving)
            for (const auto element : made.rows[edge])
                if (element >= 0) view(arrived)[element] = element;
        number_rows(made, number, view(arrived), slot.channel_step == slot.positions ? slot.positions : 0);
        for (const auto edge : slot.arriving)
            for (auto& element : made.rows[edge])
                if (element >= 0) element = arrived[element];
    }

    void number_rows(Structure<T>& made, int64_t number, View<int32_t> rows, int64_t strip) {
        const auto& slot = slots[number];
        auto &starts = made.starts[number], &channels = made.channels[number];
        // without branches, which a processor could not predict: dropped elements have an extra position and an extra row
        starts.assign(slot.positions + 2, 0);
        each_place(slot, rows, strip, [&](int64_t, int64_t position, int64_t) { ++view(starts)[position + 1]; });
        for (int64_t position = 0; position < slot.positions; ++position) starts[position + 1] += starts[position];
        starts.pop_back();
        counts.assign(starts.begin(), starts.end());
        const int64_t total = starts.back();
        channels.resize(total + 1);
        each_place(slot, rows, strip, [&](int64_t e, int64_t position, int64_t channel) {
            const bool is_kept = rows.data[e] >= 0;
            const int32_t row = view(counts)[position];
            counts[position] += is_kept;
            view(channels)[row] = static_cast<int32_t>(channel);
            rows.data[e] = is_kept ? row : -1;
        });
        channels.resize(total);
    }

    // Call `act` with each element of an edge, and its position and channel in the slot; a dropped element has the
    // position after the last one.
    template <class Act>
    void each_place(const Slot<T>& slot, View<int32_t> rows, int64_t strip, Act act) const {
        const int64_t positions = slot.positions;
        if (strip) {  // elements stay in their channel, so no division is needed
            for (int64_t channel = 0, e = 0; channel < slot.channels; ++channel)
                for (int64_t end = e + strip, low = channel * positions; e < end; ++e)
                    act(e, rows[e] < 0 ? positions : rows.data[e] - low, channel);
            return;
        }
        const int64_t step = slot.channel_step;
        for (int64_t e = 0; e < rows.size; ++e) {
            const int32_t element = rows.data[e];
            if (element < 0) act(e, positions, 0);
            else if (positions == 1) act(e, 0, element);
            else if (step == 1) act(e, element / slot.channels, element % slot.channels);
            else act(e, element % positions, element / positions);
        }
    }

    // ---- values

    // Compute one block of cotangents for the first `count` images of the group.
    void fill(int64_t count) {
        for (int64_t image = 0; is_input_merged && image < count; ++image)
            std::fill_n(output_of(image).data, width * inputs, T(0));
        allocate(0, count);
        for (int64_t image = 0; image < count; ++image)
            for (int64_t row = 0; row < seeds.size; ++row)
                for (int64_t k = 0; k < width; ++k)
                    view(values[0])[bases[0][image] + row * width + k] =
                        cotangents[(first_image + image) * cotangent_step + (lowest + k) * seeds.size + row];
        for (const auto& operation : operations) {
            for (const auto edge : operation.edges)
                if (edges[edge].target >= 0) allocate(edges[edge].target, count);
            if (operation.kind == GATHER) gather(operation, count);
            else
                for (int64_t image = 0; image < count; ++image) pass(operation, image);
            spare.emplace_back().swap(values[operation.slot]);
        }
    }

    View<T> output_of(int64_t image) const {
        return jacobian.part(((first_output + image) * outputs + lowest) * inputs, width * inputs);
    }

    View<T> rows_of(int64_t slot, int64_t image) {
        return view(values[slot]).part(bases[slot][image], bases[slot][image + 1] - bases[slot][image]);
    }

    // Reserve the rows of a slot for all images, in memory that an earlier slot has used: new pages cost time.
    void allocate(int64_t slot, int64_t count) {
        if (!values[slot].empty()) return;
        bases[slot].assign(1, 0);
        for (int64_t image = 0; image < count; ++image)
            bases[slot].push_back(bases[slot].back() + static_cast<int64_t>(group[image].channels[slot].size()) * width);
        const size_t size = bases[slot].back() + VECTOR_BYTES / sizeof(T);  // `scatter` reads whole vectors
        const auto best = std::max_element(
            spare.begin(), spare.end(), [](auto& one, auto& other) { return one.capacity() < other.capacity(); });
        if (best != spare.end()) values[slot].swap(*best), spare.erase(best);
        if (slots[slot].is_merged) values[slot].assign(size, T(0));
        else values[slot].resize(size);
    }

    // Add `scale` times a row of cotangents, `step` values apart, to where element `at` of an edge arrives.
    INLINE void deposit(int64_t number, int64_t image, int64_t at, const T* row, T scale, int64_t step = 1) {
        const auto& made = group[image];
        const int32_t place = made.rows[number][at];
        if (place < 0) return;
        if (!made.factors[number].empty()) scale *= made.factors[number][at];
        const int64_t target = edges[number].target, size = width;
        if (target < 0) {
            for (int64_t k = 0; k < size; ++k) output_of(image)[k * inputs + place] += scale * row[k * step];
            return;
        }
        T* to = rows_of(target, image).part(place * size, size).data;
        if (slots[target].is_merged)
            for (int64_t k = 0; k < size; ++k) to[k] += scale * row[k * step];
        else
            for (int64_t k = 0; k < size; ++k) to[k] = scale * row[k * step];
    }

    void pass(const Operation<T>& operation, int64_t image) {
        const auto rows = rows_of(operation.slot, image);
        const auto &starts = group[image].starts[operation.slot], &channels = group[image].channels[operation.slot];
        if (operation.kind == IDENTITY) {
            for (const auto edge : operation.edges)
                for (size_t row = 0; row < channels.size(); ++row) deposit(edge, image, row, &rows.data[row * width], T(1));
        } else if (operation.kind == POSITIONS) {  // such as average pooling: each row goes to all positions of its window
            for (int64_t position = 0; position < slots[operation.slot].positions; ++position)
                for (int32_t row = starts[position]; row < starts[position + 1]; ++row)
                    for (int32_t n = operation.starts[position]; n < operation.starts[position + 1]; ++n) {
                        const int64_t at = channels[row] * operation.channel_step + operation.places[n] * operation.position_step;
                        deposit(operation.edges[0], image, at, &rows.data[row * width], operation.weights[n]);
                    }
        } else {
            if (width <= 4) scatter<4>(operation, image);
            else if (width <= 8) scatter<8>(operation, image);
            else scatter<16>(operation, image);
        }
    }

    // Convolutions with few input channels per group: vectorized over the cotangents. Weights: (output channel, tap,
    // input channel), padded to whole blocks per output channel.
    template <int PADDED>
    void scatter(const Operation<T>& operation, int64_t image) {
        typedef T Vector __attribute__((vector_size(PADDED * sizeof(T)), aligned(sizeof(T)), may_alias));
        const auto& starts = group[image].starts[operation.slot];
        const int32_t* channels = group[image].channels[operation.slot].data();
        const T* rows = values[operation.slot].data() + bases[operation.slot][image];
        const int64_t in = operation.in_channels, all = in * operation.groups;
        const auto &vertical = operation.axes[0], &horizontal = operation.axes[1];
        dense.assign(operation.in[0] * operation.in[1] * all * PADDED, T(0));
        for (int64_t y = 0; y < operation.out[0]; ++y)
            for (int64_t x = 0; x < operation.out[1]; ++x) {
                const int32_t first = starts[y * operation.out[1] + x], last = starts[y * operation.out[1] + x + 1];
                if (first == last) continue;
                // where the products with each weight of a row belong, for this position
                targets.assign(operation.width, -1);
                vertical.each(y, [&](int64_t tap_y, int64_t place_y) {
                    horizontal.each(x, [&](int64_t tap_x, int64_t place_x) {
                        const int64_t place = place_y * operation.in[1] + place_x;
                        const int64_t low = (tap_y * operation.kernel_width + tap_x) * in;
                        for (int64_t c = 0; c < in; ++c) view(targets)[low + c] = (place * all + c) * PADDED;
                    });
                });
                if (operation.groups == 1) {
                    for (int64_t low = 0; low < operation.width; low += BLOCK) {
                        Vector sums[BLOCK] = {};
                        for (int32_t row = first; row < last; ++row) {
                            const T* weight = operation.weights.part(channels[row] * operation.width + low, BLOCK).data;
                            const auto vector = *reinterpret_cast<const Vector*>(rows + row * width);
#pragma GCC unroll 16
                            for (int n = 0; n < BLOCK; ++n) sums[n] += weight[n] * vector;
                        }
                        for (int n = 0; n < BLOCK; ++n)
                            if (targets[low + n] >= 0)
                                *reinterpret_cast<Vector*>(view(dense).part(targets[low + n], PADDED).data) += sums[n];
                    }
                    continue;
                }
                for (int32_t row = first; row < last; ++row) {
                    const T* weight = operation.weights.part(channels[row] * operation.width, operation.width).data;
                    const int64_t low = channels[row] / operation.out_channels * in * PADDED;
                    const auto vector = *reinterpret_cast<const Vector*>(rows + row * width);
                    for (int64_t n = 0; n < operation.width; ++n)
                        if (targets[n] >= 0)
                            *reinterpret_cast<Vector*>(view(dense).part(targets[n] + low, PADDED).data) += weight[n] * vector;
                }
            }
        unload<PADDED>(operation, image);
    }

    // Copy the sums of `scatter` from (position, channel, cotangent) to the Jacobian.
    template <int PADDED>
    void unload(const Operation<T>& operation, int64_t image) {
        const int64_t number = operation.edges[0], all = operation.in_channels * operation.groups;
        const int64_t positions = operation.in[0] * operation.in[1];
        if (edges[number].target < 0 && edges[number].steps.empty() && !is_input_merged) {
            const auto to = output_of(image);
            for (int64_t channel = 0; channel < all; ++channel)
                for (int64_t k = 0; k < width; ++k)
                    for (int64_t position = 0; position < positions; ++position)
                        to[k * inputs + channel * operation.channel_step + position * operation.position_step] =
                            dense[(position * all + channel) * PADDED + k];
            return;
        }
        for (int64_t channel = 0; channel < all; ++channel)
            for (int64_t position = 0; position < positions; ++position)
                deposit(number, image, channel * operation.channel_step + position * operation.position_step,
                        &dense[(position * all + channel) * PADDED], T(1));
    }

    // Convolutions and linear layers: each position of the input sums over the rows that reach it, for a panel of
    // neighboring input channels at a time. Weights: (group, panel, tap, output channel, lane).
    void gather(const Operation<T>& operation, int64_t count) {
        const int64_t lanes = operation.width, taps = operation.taps;
        const int64_t panels = (operation.in_channels + lanes - 1) / lanes, size = taps * operation.out_channels * lanes;
        const auto sum = summation<MOST_COTANGENTS>(lanes * sizeof(T) > VECTOR_BYTES);
        for (int64_t number = 0; number < panels * operation.groups; ++number) {
            const int64_t in_group = number / panels, low = number % panels * lanes;
            Panel<T> panel{};
            panel.first_channel = in_group * operation.out_channels;
            panel.element = (in_group * operation.in_channels + low) * operation.channel_step;
            panel.used = std::min(lanes, operation.in_channels - low);
            // a matrix can be read as it is, except for a last panel that its rows do not fill
            const bool is_natural = operation.tail.size && panel.used == lanes;
            panel.row_step = is_natural ? operation.in_channels : lanes;
            if (is_natural) panel.weights = operation.weights.part(low, operation.weights.size - low);
            else panel.weights = operation.tail.size ? operation.tail : operation.weights.part(number * size, size);
            for (int64_t image = 0; image < count; ++image)
                for (int64_t y = 0; y < operation.in[0]; ++y)
                    for (int64_t x = 0; x < operation.in[1]; ++x) gather_position({operation, panel, image, y, x}, sum);
        }
    }

    // A position of the input, for which a panel's sums are computed.
    struct Position {
        const Operation<T>& operation;
        const Panel<T>& panel;
        int64_t image, y, x;
    };

    using Summation = void (Runner::*)(const Position&, T*) const;

    // The function for a block of `width` cotangents. Only that is compiled for each width, since compiling takes time.
    template <int K>
    Summation summation(bool is_wide) const {
        if constexpr (K > 1)
            if (width < K) return summation<K - 1>(is_wide);
        return is_wide ? &Runner::sum_panel<K, 2> : &Runner::sum_panel<K, 1>;
    }

    void gather_position(const Position& at, Summation sum) {
        const auto& operation = at.operation;
        const auto& made = group[at.image];
        const int64_t number = operation.edges[0], step = operation.channel_step, lanes = operation.width, used = at.panel.used;
        const auto& edge = edges[number];
        const int64_t element = at.panel.element + (at.y * operation.in[1] + at.x) * operation.position_step;
        const bool is_direct = edge.target < 0 && edge.steps.empty() && !is_input_merged;
        CHECK(element + (used - 1) * step < edge.size);
        const int32_t* rows = made.rows[number].data() + element;
        int32_t active[2 * VECTOR_BYTES / sizeof(T)];  // lanes whose results are needed
        int64_t count = 0;
        if (!is_direct) {
            for (int64_t l = 0; l < used; ++l) active[count] = l, count += rows[l * step] >= 0;
            if (!count) return;
        }
        alignas(64) T results[MOST_COTANGENTS * 2 * VECTOR_BYTES / sizeof(T)];
        (this->*sum)(at, results);
        if (is_direct) {
            const auto to = output_of(at.image);
            for (int64_t k = 0; k < width; ++k)
                if (step == 1) std::memcpy(to.part(k * inputs + element, used).data, results + k * lanes, used * sizeof(T));
                else
                    for (int64_t l = 0; l < used; ++l) to[k * inputs + element + l * step] = results[k * lanes + l];
            return;
        }
        if (edge.target < 0 || slots[edge.target].is_merged || !made.factors[number].empty()) {
            for (int64_t n = 0; n < count; ++n)
                deposit(number, at.image, element + active[n] * step, results + active[n], T(1), lanes);
            return;
        }
        const auto target = rows_of(edge.target, at.image);
        for (int64_t n = 0; n < count; ++n) {
            T* to = target.part(rows[active[n] * step] * width, width).data;
            for (int64_t k = 0; k < width; ++k) to[k] = results[k * lanes + active[n]];
        }
    }

    // Call `act` with the weights and the values of each row that reaches a position of the input.
    template <class Act>
    INLINE void each_row(const Position& at, int64_t size, Act act) const {
        const auto& [operation, panel, image, y, x] = at;
        const auto& made = group[image];
        const int32_t* starts = made.starts[operation.slot].data();
        const int32_t* channels = made.channels[operation.slot].data();
        const int32_t* offsets = made.offsets[operation.slot].data();
        const T* from = values[operation.slot].data() + bases[operation.slot][image];
        const auto &vertical = operation.axes[0], &horizontal = operation.axes[1];
        const int64_t first = panel.first_channel, last = first + operation.out_channels, step = panel.row_step;
        for (int32_t v = vertical.starts[y]; v < vertical.starts[y + 1]; ++v)
            for (int32_t place = vertical.runs[v].first; place <= vertical.runs[v].last; ++place)
                for (int32_t h = horizontal.starts[x]; h < horizontal.starts[x + 1]; ++h) {
                    const auto& run = horizontal.runs[h];
                    const int64_t tap = (vertical.runs[v].sum - place) * operation.kernel_width + run.sum;
                    const T* weights = panel.weights.data + (tap * operation.out_channels - first) * step;
                    const int64_t line = place * operation.out[1];
                    for (int32_t row = starts[line + run.first], end = starts[line + run.last + 1]; row < end; ++row) {
                        if (operation.groups > 1 && (channels[row] < first || channels[row] >= last)) continue;
                        const T* weight = weights + offsets[row] * step;
                        CHECK(weight >= panel.weights.data && weight < panel.weights.data + panel.weights.size);
                        act(weight, from + row * size);
                    }
                }
    }

    // All lanes of a panel: vectorized over them, with the sums of all cotangents in registers; (cotangent, lane).
    template <int K, int VECTORS>
    void sum_panel(const Position& at, T* results) const {
        typedef T Vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
        Vector sums[K][VECTORS] = {};
        each_row(at, K, [&](const T* weight, const T* value) INLINE_LAMBDA {
            Vector panel[VECTORS];
            for (int n = 0; n < VECTORS; ++n) panel[n] = reinterpret_cast<const Vector*>(weight)[n];
#pragma GCC unroll 16
            for (int k = 0; k < K; ++k)
#pragma GCC unroll 2
                for (int n = 0; n < VECTORS; ++n) sums[k][n] += panel[n] * value[k];
        });
        std::memcpy(results, sums, sizeof sums);
    }
};

// Run a program for the images first … last - 1; `output` points at the first one's (output, input).
template <class T>
int run(const int64_t* words, int64_t size, int64_t first, int64_t last, T* output, char* message, int64_t length) {
    try {
        Reader reader{{words, size}};
        Runner<T>(reader).run(first, last, output);
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(message, length, "%s", error.what());
        return 1;
    }
}

}  // namespace

extern "C" {

int64_t pellucid_abi(void) { return 1; }

// Bytes of a vector, which decide how weights are packed into panels.
int64_t pellucid_vector_bytes(void) { return VECTOR_BYTES; }

int pellucid_run_float(const int64_t* words, int64_t size, int64_t first, int64_t last, float* output, char* message, int64_t length) {
    return run(words, size, first, last, output, message, length);
}

int pellucid_run_double(const int64_t* words, int64_t size, int64_t first, int64_t last, double* output, char* message, int64_t length) {
    return run(words, size, first, last, output, message, length);
}
}
