"""A curve as SVG without anything else: black on white, labels at the lines."""

import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 60, 110, 20, 50


def picture(curve, levels):
    """Seconds over the probability that keys meet (logarithmic), and models whose time does not depend on that."""
    top = 1.1 * max(value for _, value in curve + levels)
    first, last = math.log10(curve[0][0]), math.log10(curve[-1][0])

    def x(probability):
        return LEFT + (math.log10(probability) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(seconds):
        return HEIGHT - BOTTOM - seconds / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="black"/>']
    for probability in [0.01, 0.03, 0.1, 0.3, 1]:
        parts.append(f'<path d="M{x(probability):.1f} {HEIGHT - BOTTOM}v5" stroke="black"/>'
                     f'<text x="{x(probability):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{probability}</text>')
    step = 10 ** math.floor(math.log10(top)) / 5
    while top / step > 8:
        step *= 2
    for i in range(int(top / step) + 1):
        parts.append(f'<path d="M{LEFT} {y(i * step):.1f}h-5" stroke="black"/>'
                     f'<text x="{LEFT - 8}" y="{y(i * step) + 4:.1f}" text-anchor="end">{i * step:g}</text>')
    for name, value in levels:
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="black" stroke-dasharray="6 4"/>'
                     f'<text x="{WIDTH - RIGHT + 6}" y="{y(value) + 4:.1f}">{name}</text>')
    points = " ".join(f"{x(p):.1f},{y(value):.1f}" for p, value in curve)
    parts.append(f'<polyline points="{points}" fill="none" stroke="black" stroke-width="2"/>')
    parts += [f'<circle cx="{x(p):.1f}" cy="{y(value):.1f}" r="3.5"/>' for p, value in curve]
    middle = curve[len(curve) // 2]
    parts.append(f'<text x="{x(middle[0]) + 8:.1f}" y="{y(middle[1]) + 22:.1f}">SparseSSP</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
                 'probability that clocks of two workers have a key in common</text>'
                 f'<text x="14" y="{HEIGHT / 2 - 15}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2 - 15})">seconds</text>')
    return "\n".join([*parts, "</svg>", ""])
